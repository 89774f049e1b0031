"""Sentences: a template with a class name as token ids, and the positions of learned tokens."""

from collections.abc import Sequence
from typing import NamedTuple

from ..backbones.family import Tokenizer
from ..errors import UserError
from ..spec import PromptSpec

CSC_SLOT = -1  # marks a slot that differs between classes


def check_names(classnames: Sequence[str]) -> None:
    """Refuse class names that are not a list of strings.

    Raises:
        TypeError: they are not a list of strings.
        ValueError: the list is empty.
    """
    if isinstance(classnames, str):
        raise TypeError(f"classnames is the text '{classnames}': give a list of names")
    for name in classnames:
        if not isinstance(name, str):
            raise TypeError(f"classnames has {name!r}, which is not text: give a list of names")
    if not len(classnames):
        raise ValueError("classnames is empty: give at least one name")


class Sentence(NamedTuple):
    """Token ids from SOS to EOS, and positions in them.

    ids: the token ids; slots: position -> index of the learned token at that position; end: the
    position after the last word, which is that of the template's full stop, or of EOS without one;
    eos: the position of EOS.
    """

    ids: list[int]
    slots: dict[int, int]
    end: int
    eos: int


class Writer(NamedTuple):
    """A writer of sentences for a text encoder that reads `context_length` tokens."""

    tokenizer: Tokenizer
    context_length: int

    def write(self, template: str, name: str) -> Sentence:
        """Return the sentence of a class, without learned tokens.

        Args:
            template: `{}` stands for the class name; without it, the sentence is `{template}
                {name}.`.
            name: of the class.

        Raises:
            UserError: the name is empty, or the sentence does not fit into the encoder's context.
        """
        if not name:
            raise UserError("A class name is empty: give every class a name")
        before, after = around_name(template)
        text = before + name + after
        ids = [self.tokenizer.sos, *self.tokenizer.encode(text), self.tokenizer.eos]
        if len(ids) > self.context_length:
            culprit = "" if name == text else f"The class name '{name:.80}' is too long: "
            raise UserError(
                f"{culprit}'{text:.120}' has {len(ids)} tokens but the text encoder reads "
                f"{self.context_length}: shorten it, or the context"
            )
        eos = len(ids) - 1
        return Sentence(ids, {}, eos - after.endswith("."), eos)

    def write_prompt(self, template: str, name: str, spec: PromptSpec) -> Sentence:
        """Return the sentence of a class whose first `text_length` tokens are learned.

        Raises:
            UserError: as `write`, or the template has too few words before the class name.
        """
        sentence = self.write(template, name)
        b, ids = spec.text_length, sentence.ids
        head = self.tokenizer.encode(around_name(template)[0])
        if len(head) < b:
            raise UserError(
                f"CTX_INIT '{template}' has {len(head)} tokens before the class name but N_CTX is "
                f"{b}: lengthen the template or lower N_CTX"
            )
        if ids[1 : 1 + b] != head[:b]:
            raise UserError(
                f"CTX_INIT '{template}' and the class name '{name}' form one word: put a space "
                "before {}"
            )
        if spec.class_position == "end":
            return sentence._replace(slots={1 + j: j for j in range(b)})
        # the class name moves into or before the context (CoOp, section 3.1)
        name_ids = ids[1 + b : 1 + b + len(self.tokenizer.encode(name))]
        rest = ids[1 + b + len(name_ids) :]
        before = b // 2 if spec.class_position == "middle" else 0
        after = before + len(name_ids)
        moved = [ids[0], *ids[1 : 1 + before], *name_ids, *ids[1 + before : 1 + b], *rest]
        slots = {1 + j if j < before else 1 + j + after - before: j for j in range(b)}
        return sentence._replace(ids=moved, slots=slots)


def around_name(template: str) -> tuple[str, str]:
    """Return the parts of a template before and after the class name."""
    before, place, after = template.partition("{}")
    return (before, after) if place else (template + " ", ".")


def shared_length(row: list[Sentence], class_specific: bool) -> int:
    """Return the number of leading positions that are the same in all sentences of one prompt.

    Slots are included only if they follow SOS directly. Slots after a class name, which are the
    same if there is a single class, are not.

    Args:
        row: one sentence per class.
        class_specific: True if the learned tokens differ between classes.
    """

    def content(s: Sentence, p: int):
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
