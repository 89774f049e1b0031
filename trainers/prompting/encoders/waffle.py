"""Sentences of bare descriptors, and descriptors of random words.

DCLIP (Menon and Vondrick, ICLR 2023; arXiv:2210.07183), WaffleCLIP (Roth et al., ICCV 2023;
arXiv:2306.07282).
"""

import random
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import fmean
from string import ascii_lowercase
from typing import Any

from ..backbones import family_of
from .sides import need_open

FORM = "A photo of a {name}, {which}."
PAIRS = 15
LEAST = 3  # letters of a word
IS, AS_IT_IS = ("a", "used"), ("has", "often", "typically", "may", "can")


def in_form(form: str, name: str, words: str) -> str:
    """Return a sentence of a bare descriptor, by the rules of DCLIP and WaffleCLIP.

    Examples:
        >>> in_form("{name}, {which}", "cat", "pointed ears")
        'cat, which has pointed ears'
    """
    verb = "is " if words.startswith(IS) else "" if words.startswith(AS_IT_IS) else "has "
    return form.replace("{name}", name).replace("{which}", f"which {verb}{words}")


def waffle(clip_model: Any, names: Sequence[str], seed: int, pairs: int = PAIRS) -> list[str]:
    """Return descriptors for all classes: pairs of random words and of random letters.

    As many words as class names have on average, of CLIP's vocabulary, cut to their mean length.

    Args:
        seed: of the words; below 0, as 0.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> [len(text) for text in waffle(load_clip("emoji"), ["fire fly"], seed=1, pairs=1)]
        [9, 10]
    """
    does = "takes random words of CLIP's vocabulary (DATASET.SENTENCES waffle)"
    need_open(clip_model, "text", does, "choose another backbone or other sentences")
    draw = random.Random(max(seed, 0))
    decode = family_of(clip_model).tokenizer.decode
    size = len(clip_model.token_embedding.weight)
    texts = (decode([token]).strip() for token in draw.sample(range(size), size))
    words = (text for text in texts if text.isascii() and text.isalpha() and len(text) >= LEAST)
    number = max(1, round(fmean(len(name.split()) for name in names)))
    length = round(fmean(fmean(map(len, name.split())) for name in names))
    some = cycle([*islice(words, pairs * number)])
    descriptors = []
    for _ in range(pairs):
        own = [word[:length] for word in islice(some, number)]
        letters = ["".join(draw.choices(ascii_lowercase, k=len(word))) for word in own]
        descriptors += [" ".join(own), ", ".join(letters)]
    return descriptors
