"""Sentences: a template with a class name as token ids, and the positions of learned tokens.

A template is words with `{}` for the class name; without `{}` the name follows, and a full stop. A
word `X` is a placeholder: a learned token that starts there starts at random.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

from ..backbones import family_of
from ..errors import UserError, need
from ..node import Words, clean
from .sides import need_open

SLOT = "X"
CSC_SLOT = -1  # marks a slot that differs between classes


class Sentence(NamedTuple):
    """Token ids from SOS to EOS, and padding where it is read; positions in them.

    ids: the token ids; slots: position -> index of the learned token at that position; end: the
    position after the last word, which is that of the template's full stop, or of EOS without one;
    eos: the position of EOS, or of that whose state is read in its place; start: of the first word.
    """

    ids: list[int]
    slots: dict[int, int]
    end: int
    eos: int
    start: int = 1


def check_names(classnames: Sequence[str]) -> None:
    """Refuse a text in place of a list of class names (TypeError)."""
    if isinstance(classnames, str):
        raise TypeError(f"classnames is the text '{classnames}': give a list of names")


def around_name(template: str) -> tuple[str, str]:
    """Return the parts of a template before and after the class name."""
    before, place, after = template.partition("{}")
    return (before, after) if place else (template + " ", ".")


def encode_after(encode: Callable[[str], list[int]], before: str, words: str) -> list[int]:
    """Return the token ids of words that follow others, which some tokenizers mark by a space."""
    if not before:
        return encode(words.strip())
    return encode(f"{before.rstrip()} {words.strip()}")[len(encode(before.rstrip())) :]


# ------------------------------------------------------------------ from CTX_INIT to templates


def split_templates(words: Words) -> tuple[str, ...]:
    """Return the templates in a `CTX_INIT`, a list or one string with tabs between them."""
    given = words.split("\t") if isinstance(words, str) else words or ()
    return tuple(clean(template) for template in given)


def only_template(name: str, words: Words) -> str:
    """Return the template in a key of a method that has one prompt; empty without words."""
    given = split_templates(words or "")
    need(len(given) == 1, f"{name} has {len(given)} templates but this method takes one")
    return given[0]


def _need_place(name: str, text: str) -> None:
    good = text.count("{}") == bool(text)
    need(good, f"{name} is '{text}' but must have one {{}}, for the class name")


OneTemplate: TypeAlias = Annotated[Words, only_template]  # of a method that has one prompt
AroundName: TypeAlias = Annotated[str, _need_place]  # text with the class name, or none


def fixed_sentence(words: Words) -> str:
    """Return the template `{words} {}.` of a class without learned tokens, from a `CTX_INIT`."""
    return f"{split_templates(words or '')[0]} {{}}.".lstrip()


def expand_templates(words: Words, N: int, length: int, keep_fixed: bool = True) -> tuple[str, ...]:
    """Return one template per prompt from a `CTX_INIT` (docs/methods.md, section 5).

    Prompt 1 starts from the template; templates after a tab start the next prompts, as in the
    published code. The other prompts get `X` for each learned token. Without words, or with more
    than four learned tokens, every prompt is `X X ... X`.

    Args:
        words: a template, a list of N templates or of one for all, or an empty string.
        length: b, learned tokens of a prompt.
        keep_fixed: prompts 2..N keep the fixed words after the learned ones (the paper); the
            published code of ALIGN drops them.
    """
    slots = [SLOT] * length
    if not words or length > 4:
        return (" ".join(slots),) * N
    given = split_templates(words)
    if isinstance(words, str):
        other = " ".join(slots + (given[0].split(" ")[length:] if keep_fixed else []))
        given = (*given, *[other] * (N - len(given)))[:N]
    elif len(given) == 1:
        given *= N
    if len(given) != N:
        raise UserError(
            f"CTX_INIT gives {len(given)} templates but N = {N}: set CTX_INIT, too, to one "
            "('a photo of a') or to one for each prompt"
        )
    return given


# ------------------------------------------------------------------ from templates to tokens


def write_sentences(
    clip_model: Any,
    templates: Sequence[str],
    classnames: Sequence[str],
    length: int = 0,
    position: str = "end",
) -> list[list[Sentence]]:
    """Return the sentences `[n][k]` of each template and class.

    Args:
        clip_model: a CLIP from `load_clip`, for its tokenizer and the length of its context.
        templates: N templates.
        classnames: K names; `_` reads as a space.
        length: b; the first b tokens of a template are learned.
        position: of the class name: at the `end`, in the `middle` of the learned tokens or at their
            `front` (CoOp, section 3.1).

    Raises:
        UserError: a name is too long, or a template has too few words before the name.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> ((cat, dog),) = write_sentences(load_clip("emoji"), ["X X {}."], ["cat", "dog"], 2)
        >>> cat.slots, cat.end
        ({1: 0, 2: 1}, 4)
    """
    if length:
        need_open(clip_model, "text", "has textual prompts")
    family = family_of(clip_model)
    write = _Writer(family.tokenizer, clip_model.context_length, family.reads)
    names = [clean(name) for name in classnames]
    return [
        [write.with_slots(template, name, length, position) for name in names]
        for template in templates
    ]


class _Writer(NamedTuple):
    tokenizer: Any
    context_length: int
    reads: str = "eos"

    @property
    def start(self) -> list[int]:
        """What precedes the first word."""
        return [] if self.tokenizer.sos is None else [self.tokenizer.sos]

    def _sentence(self, words: list[int], template: str, name: str) -> Sentence:
        """Return the sentence of the ids of all words, without learned tokens."""
        before, after = around_name(template)
        text, first, pad = before + name + after, len(self.start), self.tokenizer.pad
        ids = [*self.start, *words, self.tokenizer.eos]
        if len(ids) > self.context_length:
            culprit = "" if name == text else f"The class name '{name:.80}' is too long: "
            raise UserError(
                f"{culprit}'{text:.120}' has {len(ids)} tokens but the text encoder reads "
                f"{self.context_length}: shorten it, or the context"
            )
        eos = len(ids) - 1
        stop = after.endswith(".") and len(self.tokenizer.encode(".")) > 0  # some remove it
        if pad is not None:
            ids += [pad] * (self.context_length - len(ids))
        read = {"last": len(ids) - 1, "first": 0}.get(self.reads, eos)
        return Sentence(ids, {}, eos - stop, read, first)

    def with_slots(self, template: str, name: str, b: int, position: str) -> Sentence:
        """Return a sentence whose first b tokens are learned."""
        first, encode = len(self.start), self.tokenizer.encode
        before, after = around_name(template)
        sentence = self._sentence(encode(before + name + after), template, name)
        if not b:
            return sentence
        head = encode(before.strip())
        if len(head) < b:
            raise UserError(
                f"The template '{template}' has {len(head)} tokens before the class name but {b} "
                "are learned: lengthen it, or learn fewer (N_CTX)"
            )
        if position == "end":
            return sentence._replace(slots={first + j: j for j in range(b)})
        place = b // 2 if position == "middle" else 0
        if place:
            own, behind = encode_after(encode, before, name), encode(before + name + after)
            behind = behind[len(head) :]
        else:  # the name begins the sentence
            own, behind = encode(name), encode(name + after)
            head = encode_after(encode, name, before)
        n = len(own)
        ids = [*head[:place], *behind[:n], *head[place:], *behind[n:]]
        slots = {first + j + (n if j >= place else 0): j for j in range(b)}
        return self._sentence(ids, template, name)._replace(slots=slots)


def shared_length(row: list[Sentence], class_specific: bool) -> int:
    """Return the number of leading positions that are the same in all sentences of one prompt.

    Slots are included only if they follow SOS directly. Slots after a class name, which are the
    same if there is a single class, are not.

    Args:
        row: one sentence per class.
        class_specific: True if the learned tokens differ between classes.
    """

    def content(s: Sentence, p: int) -> tuple[str, int]:
        if p not in s.slots:
            return "word", s.ids[p]
        return "slot", CSC_SLOT if class_specific else s.slots[p]

    limit = min(s.eos for s in row)  # EOS itself is never shared
    for p in range(limit):
        first = content(row[0], p)
        if p in row[0].slots and p > 1 and p - 1 not in row[0].slots:
            return p
        if first == ("slot", CSC_SLOT) or any(content(s, p) != first for s in row):
            return p
    return limit
