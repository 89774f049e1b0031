"""Classes that a CLIP cannot distinguish by their names."""

from collections import defaultdict
from collections.abc import Hashable, Iterable

import torch

from .class_text import SeveralSentences
from .text import TextEncoder


@torch.no_grad()
def find_indistinct(encoder: TextEncoder) -> list[list[int]]:
    """Return groups of classes whose sentences are the same to a CLIP, by number.

    So are equal names, and words that a tokenizer does not know or whose embeddings are equal.

    Args:
        encoder: for the sentences of the classes. If the side is closed, or a class has several
            sentences, its features are compared.

    Examples:
        >>> from trainers.prompting import build_method, load_clip
        >>> names = ["cat", "rose", "dog", "tulip"]  # flowers are not in its vocabulary
        >>> method = build_method("ZeroshotCLIP", {}, load_clip("emoji"), names)
        >>> find_indistinct(method.text_encoder)
        [[1, 3]]
    """
    if encoder.closed is not None or isinstance(encoder, SeveralSentences):
        features = encoder().h.transpose(0, 1).float().cpu().numpy()
        return _groups(row.tobytes() for row in features)
    ids = sorted({token for row in encoder.sentences for sentence in row for token in sentence.ids})
    weight = encoder.token_embedding.weight
    rows = weight[torch.tensor(ids, device=weight.device)].float().cpu().numpy()
    same = {token: row.tobytes() for token, row in zip(ids, rows, strict=True)}
    first = {row: token for token, row in reversed(same.items())}
    return _groups(
        tuple(tuple(first[same[token]] for token in sentence.ids) for sentence in of_class)
        for of_class in zip(*encoder.sentences, strict=True)
    )


def _groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Return the numbers of keys that are equal, for each key that occurs more than once."""
    groups = defaultdict(list)
    for k, key in enumerate(keys):
        groups[key].append(k)
    return [group for group in groups.values() if len(group) > 1]
