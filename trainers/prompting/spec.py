"""The space of prompts: a `PromptSpec` says how a method prompts CLIP and compares features."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

from .errors import UserError

COUPLINGS = ("none", "independent", "project", "unified")
CLASS_POSITIONS = ("end", "middle", "front")
MOST_TOKENS = 100_000  # learned ones, of all prompts and depths; ALIGN has some hundreds
LEAST_LAMBDA = 1e-30  # costs divided by it are still far within float32
Words: TypeAlias = str | list[str] | None  # a template, or a list of them
SLOT = "X"  # a placeholder in a template, whose word does not matter: it starts at random


def need(condition: bool, sentence: str) -> None:
    """Raise a `UserError` with this sentence unless the condition holds."""
    if not condition:
        raise UserError(sentence)


def one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the valid words."""
    need(value in valid, f"{name} is '{value}' but must be one of {', '.join(valid)}")


@dataclass(frozen=True)
class PromptSpec:
    """A method as a point in (M, N, beta, coupling, score, lengths, depths).

    Attributes:
        M: number of visual prompts; 0 leaves the image encoder as it is.
        N: number of textual prompts; 0 leaves one fixed `sentence` per class.
        beta: weight of the token-level transport in the prompt-level cost (Eq. 6); 0 leaves the
            token level out.
        beta_form: `additive` (Eq. 6) or `convex` (appendix, Eq. 1).
        coupling: where visual contexts come from: `independent` parameters, a linear map of the
            textual ones (`project`), or `unified` prompts that both sides share; `none` if one
            side has 0 prompts.
        score: `cosine`, `ot` (hierarchical transport as in the paper), `released` (as in the
            published code), `plot` (prompts against patches), or a registered one.
        templates: the words of each textual prompt, N strings. The first `text_length` tokens of
            each are learned; they start from the words, or at random where the word is `X`.
        sentence: the fixed sentence with `{}` for the class if N = 0; None takes the data set's.
        text_length, vision_length: b, learned tokens of a prompt on each side.
        text_depth, vision_depth: J, the number of transformer blocks that receive prompts, from
            the first on.
        class_position: class name at the `end`, in the `middle` or at the `front` of the context.
        class_specific: one context per class (CoOp's CSC).
        image_conditional: contexts shifted by a meta-net of the image feature (CoCoOp).
        insert_block: text block, counted from 0, at whose entry tokens of each class replace the
            learned ones (TCP); 0 for none.
        add_global: PLOT's rule for ImageNet: the global logits are added.
        reg: lambda, the entropic regularisation of both transport levels.
        tol, max_iter: the solver's tolerance and iteration limit.
        own_contexts: the method's `Parts` make the contexts of both sides. The prompt learner has
            none and the coupling is `none`; if `text_length` is 0, the context is all tokens of
            the template before the class name.
        states: n: `image.states` gets the last states of the image's first 1 + n positions.
        values: `image.values` gets the patches by the value path of the last block.
        untouched: `image.untouched` gets the features without additions, for a loss.
        settings: the `Settings` of the method, for its score; `Method` sets it.

    Raises:
        UserError: the values contradict each other.

    Examples:
        >>> PromptSpec(M=0, N=0, beta=0, score="cosine").coupling
        'none'
    """

    M: int = 4
    N: int = 4
    beta: float = 1.0
    beta_form: str = "additive"
    coupling: str = "project"
    score: str = "ot"
    templates: tuple[str, ...] = ()
    sentence: str | None = None
    text_length: int = 2
    vision_length: int = 2
    text_depth: int = 9
    vision_depth: int = 9
    class_position: str = "end"
    class_specific: bool = False
    image_conditional: bool = False
    insert_block: int = 0
    add_global: bool = False
    reg: float = 0.1
    tol: float = 1e-4
    max_iter: int = 100
    own_contexts: bool = False
    states: int = 0
    values: bool = False
    untouched: bool = False
    settings: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_words()
        if self.M == 0 or self.N == 0 or self.own_contexts:
            object.__setattr__(self, "coupling", "none")
        self._check_numbers()
        self._check_sides()
        self._check_score()
        self._check_contexts()

    def _check_words(self) -> None:
        one_of("COUPLING", self.coupling, COUPLINGS)
        one_of("BETA_FORM", self.beta_form, ("additive", "convex"))
        one_of("CLASS_TOKEN_POSITION", self.class_position, CLASS_POSITIONS)

    def _check_numbers(self) -> None:
        need(self.M >= 0, f"M is {self.M}: the number of visual prompts cannot be negative")
        need(self.N >= 0, f"N is {self.N}: the number of textual prompts cannot be negative")
        convex = self.beta_form == "convex"
        need(
            0 <= self.beta <= 1 if convex else 0 <= self.beta < math.inf,
            f"BETA is {self.beta}: it must lie in "
            + ("[0, 1] in the convex form" if convex else "[0, inf)"),
        )
        need(
            LEAST_LAMBDA <= self.reg < math.inf,
            f"LAMBDA is {self.reg}: the regularisation must be finite, and at least {LEAST_LAMBDA}",
        )
        need(self.tol > 0, f"SINKHORN_TOL is {self.tol}: it must be positive")
        need(self.max_iter >= 1, f"SINKHORN_MAX_ITER is {self.max_iter}: at least 1 is needed")

    def _check_sides(self) -> None:
        need(
            self.coupling != "none" or self.M == 0 or self.N == 0 or self.own_contexts,
            f"COUPLING is 'none' but M = {self.M} and N = {self.N}: choose independent, project "
            "or unified",
        )
        if self.N:
            least = 0 if self.own_contexts else 1
            need(self.text_length >= least, f"N_CTX is {self.text_length}: at least 1 is needed")
            need(
                self.text_depth >= 1,
                f"the text prompt depth is {self.text_depth}: at least 1 is needed",
            )
            need(
                len(self.templates) == self.N,
                f"CTX_INIT gives {len(self.templates)} templates but N = {self.N}: give one, or N",
            )
        if self.M:
            need(self.vision_length >= 1, f"N_CTX is {self.vision_length}: at least 1 is needed")
            need(
                self.vision_depth >= 1,
                f"the visual prompt depth is {self.vision_depth}: at least 1 is needed",
            )
        tokens = self.N * self.text_length * self.text_depth
        tokens += self.M * self.vision_length * self.vision_depth
        need(
            tokens <= MOST_TOKENS,
            f"the prompts have {tokens} tokens in all: lower M, N, N_CTX or the depth, to "
            f"{MOST_TOKENS:,} at most",
        )
        if self.coupling in ("project", "unified"):
            need(
                (self.text_length, self.text_depth) == (self.vision_length, self.vision_depth),
                f"COUPLING '{self.coupling}' needs equal lengths and depths on both sides, but "
                f"text has ({self.text_length}, {self.text_depth}) and vision "
                f"({self.vision_length}, {self.vision_depth})",
            )

    def _check_score(self) -> None:
        if self.score == "cosine":
            need(self.M <= 1 and self.N <= 1, "the cosine score needs at most one prompt a side")
            need(self.beta == 0, f"the cosine score has no token level, but BETA is {self.beta}")
        if self.score == "plot":
            need(self.M == 0 and self.N >= 1, "PLOT's score needs M = 0 and N >= 1")

    def _check_contexts(self) -> None:
        if self.class_position != "end" or self.class_specific:
            need(
                self.text_depth == 1,
                "CSC and class names in the middle or at the front need prompts in the first block "
                "only",
            )
        need(not self.own_contexts or self.N > 0, "own_contexts needs N >= 1")
        need(self.states >= 0, f"states is {self.states}: the number cannot be negative")
        need(not self.untouched or self.M == 0, f"untouched needs M = 0, but M is {self.M}")
        need(not self.class_specific or self.N == 1, f"CSC needs N = 1, but N is {self.N}")
        if self.image_conditional:
            need(
                self.M == 0
                and self.N == 1
                and self.text_depth == 1
                and not (self.class_specific or self.own_contexts),
                "image-conditional contexts need M = 0, N = 1 and prompts in the first block only",
            )

    @property
    def token_level(self) -> bool:
        """True if image patches and text tokens are compared."""
        return self.score in ("ot", "released") and self.beta > 0

    @property
    def num_contexts(self) -> int:
        """Number of base contexts, which both sides share if visual prompts are derived."""
        return max(self.M, self.N) if self.coupling in ("project", "unified") else self.N

    def with_(self, **changes: Any) -> Self:
        """Return a copy with some attributes changed."""
        return replace(self, **changes)


def expand_templates(words: Words, N: int, length: int, keep_fixed: bool = True) -> tuple[str, ...]:
    """Return one template per prompt from a user's `CTX_INIT` (docs/methods.md, section 5).

    Prompt 1 starts from the template; templates after a tab start the next prompts, as in the
    published code. The other prompts get `X` for each learned token. Without words, or with more
    than four learned tokens, every prompt is `X X ... X`.

    Args:
        words: a template, a list of N templates, or an empty string.
        N: number of textual prompts.
        length: b, learned tokens of a prompt.
        keep_fixed: prompts 2..N keep the fixed words after the learned ones (the paper); the
            released code drops them.
    """
    slots = [SLOT] * length
    if not words or length > 4:
        return (" ".join(slots),) * N
    given = split_templates(words)
    if not isinstance(words, str):
        return given
    other = " ".join(slots + (given[0].split(" ")[length:] if keep_fixed else []))
    return (*given, *[other] * (N - len(given)))[:N]


def split_templates(words: Words) -> tuple[str, ...]:
    """Return the templates in a `CTX_INIT`, a list or one string with tabs between them."""
    given = words.split("\t") if isinstance(words, str) else words or ()
    return tuple(clean(template) for template in given)


def clean(words: str) -> str:
    """Return the words with underscores as spaces and runs of white space as one space."""
    return " ".join(words.replace("_", " ").split())


def only_template(words: Words) -> str:
    """Return the template in a `CTX_INIT` of a method that has one prompt.

    Raises:
        UserError: it has several.
    """
    given = (clean(words),) if isinstance(words, str) else split_templates(words)
    if len(given) != 1:
        raise UserError(f"CTX_INIT has {len(given)} templates but this method takes one")
    return given[0]


def fixed_sentence(words: Words) -> str:
    """Return the sentence of a class without textual prompts, `{words} {}.`, from a `CTX_INIT`."""
    return f"{split_templates(words)[0]} {{}}.".lstrip()


def text_prompt(length: int, words: Words, **special: Any) -> PromptSpec:
    """Return the spec of one textual prompt in the first block, all of it learned (as in CoOp).

    Args:
        length: b, if there are no words.
        words: the words from which the prompt starts; their number replaces `length`.
        special: further attributes of the spec.
    """
    words = only_template(words or "")
    return PromptSpec(
        M=0,
        N=1,
        beta=0,
        score="cosine",
        templates=(words or " ".join([SLOT] * length),),
        text_length=len(words.split(" ")) if words else length,
        text_depth=1,
        **special,
    )


def shared_prompt(coupling: str, node: Any) -> PromptSpec:
    """Return the spec of one prompt on each side, both made from one context (MaPLe, UPT)."""
    return PromptSpec(
        M=1,
        N=1,
        beta=0,
        coupling=coupling,
        score="cosine",
        templates=expand_templates(node.CTX_INIT, 1, node.N_CTX),
        text_length=node.N_CTX,
        vision_length=node.N_CTX,
        text_depth=node.PROMPT_DEPTH,
        vision_depth=node.PROMPT_DEPTH,
    )
