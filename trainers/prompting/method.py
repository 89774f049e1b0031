"""A method: a point in the space of prompts, and a loss. The base of all, and their registry.

It is long because all that a method may say is documented in one place.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import node as nodes
from .beyond import BEYOND
from .errors import UserError, check_name
from .model.parts import Output
from .model.prompted_clip import PromptedCLIP
from .regularizers import regularize
from .spec import PromptSpec
from .storage import state
from .storage.public import PublicFiles
from .teacher import Teacher

METHODS: dict[str, type["Method"]] = {}
Images = torch.Tensor | Sequence[torch.Tensor]  # one view, or several
Scale = Callable[[torch.Tensor], torch.Tensor]


class Batch(NamedTuple):
    """What a step trains on: views, each (B, 3, H, W), of the same B images; labels (B,)."""

    views: list[torch.Tensor]
    labels: torch.Tensor

    @property
    def images(self) -> torch.Tensor:
        """The first view, on which the model's output was computed."""
        return self.views[0]


class Method(PublicFiles, nn.Module):
    """Base of all methods: one file each, whose class has the name that `--trainer` takes.

    A subclass names its node and its point; the rest has a default: cross-entropy, one backward
    pass, one view, nothing trained but prompts, no state but the parameters.

    Buffers of the method and of `model.parts` are saved with every checkpoint, and loaded wherever
    the prompts are: by a run that goes on, an evaluation, `load_run`. They must not depend on the
    class names, which may be others then: register what `setup` makes from these with
    `persistent=False`. A buffer whose length is not known before training starts empty.

    Class attributes:
        node: name of the method's node under `cfg.TRAINER`. Several methods may share one.
        Settings: a frozen dataclass that inherits from `Method.Settings`: a field for each key of
            the node, with its type and its public value. Plug-ins of version 0.2 have a dict
            `defaults` of keys and values instead, of which these are made.
        defaults: the keys of `Settings` with their values.
        outside: keys that the public code keeps elsewhere in the cfg, with their places, as in
            `{"W": "TRAINER.W"}`; they are fields of `Settings`, too.
        ignored: keys of the public node that mean nothing here; a run that sets one is warned.
        training_only: keys of `Settings` that an evaluation may set otherwise than the training.
        checkpoint: name of the folder that the public method saves its model in.
        saves_submodule: whether public checkpoints hold the `prompt_learner` alone, or the name
            of another sub-module that they hold.
        dead_weights: beginnings of names in public checkpoints that mean nothing here, without
            that of the sub-module.
        views: how many augmentations of an image a step needs (`DATALOADER.K_TRANSFORMS`).
        trains: False for what has nothing to learn and is evaluated as it is.
        takes: marks of `BEYOND` for what it takes beyond labelled images; tables show them. It may
            be a property, of the settings.
        class_bound: True for what learns something for each class, such as prototypes or a cache
            with labels; its checkpoints are refused for other classes.
        support_passes: how often `take_support` is to see each training image; 0 for a method that
            takes no support. It may be a property, of the settings.
        trains_on_support: True for steps on the features of the support in the place of images.
        searches: True for a method that `take_validation` is called of. It may be a property.

    Attributes:
        model: the `PromptedCLIP`.
        settings: the `Settings` of this instance.
        regularizers: terms beside the cross-entropy, with weights and teacher; `setup` names them.
        class_buffers: digests of the buffers that `setup` may have made from the class names.

    Args:
        settings: the node in full, as `config.read_node` gives it.
        clip_model: what `load_clip` gives.
        classnames: K names.
        dataset: name of the data set, which selects hand-written sentences.

    Raises:
        UserError: the settings contradict each other or do not fit the backbone.

    Examples:
        >>> from trainers.prompting import build_method, load_clip
        >>> method = build_method("CoOp", {}, load_clip("emoji"), ["cat", "dog"])
        >>> method.backward(method.losses(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])))
        >>> bool(method.model.prompt_learner.ctx.grad.isfinite().all())
        True
    """

    node: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]
    outside: ClassVar[dict[str, str]] = {}
    ignored: ClassVar[tuple[str, ...]] = ()
    training_only: ClassVar[tuple[str, ...]] = ()
    checkpoint: ClassVar[str] = "prompt_learner"
    saves_submodule: ClassVar[bool | str] = False
    dead_weights: ClassVar[tuple[str, ...]] = ()
    views: ClassVar[int] = 1
    trains: ClassVar[bool] = True
    takes: tuple[str, ...] = ()
    class_bound: ClassVar[bool] = False
    support_passes: int = 0
    trains_on_support: ClassVar[bool] = False
    searches: bool = False

    @dataclass(frozen=True)
    class Settings(nodes.Settings):
        """Base of the `Settings` of every method."""

    settings: Any
    regularizers: Sequence[tuple[Mapping[str, float], Teacher]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "defaults" in vars(cls):
            cls.Settings = nodes.from_defaults(cls.defaults)  # type: ignore[misc, assignment]
        cls.defaults = nodes.defaults_of(cls.Settings)

    def __init__(
        self,
        settings: nodes.Settings,
        clip_model: Any,
        classnames: Sequence[str],
        dataset: str = "",
    ):
        super().__init__()
        self.settings = settings
        name, point = type(self).__name__, self.point(settings)
        if not isinstance(point, PromptSpec):
            raise UserError(f"`point` of {name} gives {type(point).__name__} and no PromptSpec")
        point = point.with_(settings=settings)
        self.model = PromptedCLIP(clip_model, classnames, point, dataset)
        self.model.dead_weights = self.dead_weights
        if isinstance(self.saves_submodule, str):
            self.model.submodule = self.saves_submodule
        self.setup(clip_model, classnames, dataset)
        self.model.check_parts(name, clip_model)
        self.class_buffers = state.digests_by_class(self.own_state(), self.model.num_classes)

    # ------------------------------------------------------------------ what a method may say

    @staticmethod
    def point(settings: Any) -> PromptSpec:
        """The method's point in the space of prompts, of its `Settings`."""
        raise NotImplementedError

    def setup(self, clip_model: Any, classnames: Sequence[str], dataset: str) -> None:
        """Make what a method needs besides prompts: a teacher, `self.model.parts`, buffers."""

    def loss(self, output: Output, batch: Batch) -> torch.Tensor | dict[str, torch.Tensor]:
        """The loss of a step: the cross-entropy, and the regularisers with their weights.

        Returns:
            A scalar, or terms by name: their sum is minimised, or the one called `loss`.
        """
        terms = {"ce": F.cross_entropy(output.logits, batch.labels)}
        for weights, teacher in self.regularizers:
            terms |= regularize(weights, teacher, output, batch.images)
        return terms if self.regularizers else terms["ce"]

    def backward(self, terms: dict[str, torch.Tensor], scale: Scale = lambda loss: loss) -> None:
        """Leave in `.grad` of each trained parameter what the optimiser is to see.

        Args:
            terms: as `losses` gives them.
            scale: multiplies a loss for the sake of half precision; gradients are to be scaled.

        Raises:
            UserError: the loss depends on nothing that is trained.
        """
        if not terms["loss"].requires_grad:
            raise UserError(
                f"The loss of {type(self).__name__} does not depend on what is trained: compute it "
                "from the features and logits of the output, without `detach` or `no_grad`"
            )
        scale(terms["loss"]).backward()

    def make_room(self, n: int) -> None:
        """Give what `take_support` fills the size that n training images need.

        Called before an optimiser is made and, with 0, before a checkpoint is loaded: a parameter
        or buffer with no elements takes the size that the checkpoint has.
        """

    def keep_classes(self, index: Sequence[int]) -> None:
        """Keep what was learned for some of the classes of a checkpoint that has been loaded.

        Where a `class_bound` method has this, its checkpoints are taken for these classes, too.

        Args:
            index: for each class of the method, its number among those of the checkpoint.
        """

    def take_support(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the training set, before the first step; not called where a checkpoint is loaded.

        Args:
            features: (passes, n, D), float32, of CLIP's image encoder, not normalised; in every
                pass under other augmentations.
            labels: (n,).
        """

    def take_validation(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take validation images, after the last step.

        Args:
            features: (n, D), as in `take_support`, without augmentation.
            labels: (n,).
        """

    def after_epoch(self, epoch: int, last: int) -> None:
        """Called after the last step of epoch 1 to `last`, before it is saved or tested."""

    # ------------------------------------------------------------------ what calls it

    @classmethod
    def place(cls, key: str) -> str:
        """The dotted name in a cfg of a key of the node."""
        return cls.outside.get(key, f"TRAINER.{cls.node}.{key}")

    def losses(self, images: Images, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of a step's loss, with their total as `loss`.

        Args:
            images: (B, 3, H, W), normalised, or a list of views of that shape.
            labels: (B,).
        """
        batch = self.batch(images, labels)
        return self.terms(self.model.output(batch.images), batch)

    def batch(self, images: Images, labels: torch.Tensor) -> Batch:
        """A batch of a loader.

        Raises:
            UserError: there are fewer views than the method needs.
        """
        views = [images] if isinstance(images, torch.Tensor) else list(images)
        if len(views) < self.views:
            raise UserError(
                f"{type(self).__name__} learns from {self.views} views of an image but gets "
                f"{len(views)}: set DATALOADER.K_TRANSFORMS {self.views}"
            )
        return Batch(views, labels)

    def terms(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        """As `losses`, for an output that is there already.

        Raises:
            UserError: `loss` gives no scalar.
        """
        found = self.loss(output, batch)
        terms = found if isinstance(found, dict) else {"loss": found}
        for name, value in terms.items():
            minimised = name == "loss" or "loss" not in terms
            what: object = type(value).__name__
            if torch.is_tensor(value):
                what = tuple(value.shape) if value.numel() != 1 else value.dtype
                if value.numel() == 1 and (value.is_floating_point() or not minimised):
                    continue
            raise UserError(
                f"The loss of {type(self).__name__} has no scalar as '{name}' but {what}: return "
                "one real number as a tensor, or a dict of such"
            )
        terms = {name: value.reshape(()) for name, value in terms.items()}
        if not terms:
            raise UserError(f"The loss of {type(self).__name__} has no terms: return at least one")
        total = terms["loss"] if "loss" in terms else torch.stack([*terms.values()]).sum()
        return {"loss": total, **{k: v for k, v in terms.items() if k != "loss"}}

    def own_state(self) -> dict[str, Any]:
        """The buffers of the method and of its parts, which belong to what it has learned."""
        parameters = self.model.parts.named_parameters(remove_duplicate=False)
        trained = {state.PARTS + name for name, _ in parameters}
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith("model.")
            or (name.startswith(state.PARTS) and name not in trained)
        }

    def load_own_state(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load what `own_state` has given.

        Raises:
            UserError: the state is of another method, or a value does not fit.
        """
        state.load_buffers(self, self.own_state(), state_dict)

    def load_checkpoint(self, checkpoint: Mapping[str, Any], classnames: Sequence[str]) -> None:
        """Load what a checkpoint, ours or a public one, holds: prompts, parts, buffers.

        Args:
            checkpoint: as `read_checkpoint` gives it.
            classnames: K names, those that the method was built for.

        Raises:
            UserError: it does not fit the method, or is for its own classes alone.
        """
        name, saved = type(self).__name__, checkpoint.get("classnames")
        if saved is not None and not state.are_texts(saved):
            raise UserError(
                "The checkpoint does not tell its classes: take another, or train again"
            )
        others = saved is not None and list(saved) != list(classnames)
        class_specific = self.model.spec.class_specific
        some = []  # numbers of these classes among its own
        if others and type(self).keep_classes is not Method.keep_classes:
            names = list(saved or ())  # of several with one name the first counts
            number = {name: k for k, name in reversed([*enumerate(names)])}
            some = [number[name] for name in classnames if name in number]
        others = others and len(some) < len(classnames)
        if others and (self.class_bound or class_specific):
            raise UserError(
                f"{name} has learned something for each of its classes"
                f"{' (CSC)' if class_specific else ''}: it cannot name others"
            )
        self.make_room(0)
        self.model.load_public_state_dict(checkpoint.get("state_dict", checkpoint))
        if self.model.parts.own_classes is not None:
            self.model.parts.own_classes = not others
        kept = checkpoint.get("method")
        if kept is None or checkpoint.get("trainer") != name:  # of another code or method
            return
        if others:
            made = checkpoint.get("class_buffers")
            if not isinstance(made, Mapping):  # of an older version, which loaded none
                return
            state.check_other_classes(name, self.own_state(), kept, made, self.class_buffers)
        self.load_own_state(kept)
        if some:
            self.keep_classes(some)


# What a class must say, in words and as a test.
DECLARED: dict[str, tuple[str, Callable[[Any], object]]] = {
    "node": ("the name of a node under TRAINER", lambda value: isinstance(value, str)),
    "point": ("a function of the settings", lambda value: value is not Method.point),
    "checkpoint": (
        "the name of a folder",
        lambda value: isinstance(value, str) and re.fullmatch(r"[\w-][\w.-]*", value),
    ),
    "saves_submodule": (
        "False, True, or the name of a sub-module",
        lambda value: isinstance(value, bool) or (isinstance(value, str) and value.isidentifier()),
    ),
    "public_files": (
        "a tuple of file names, each with at most one `*`",
        lambda value: (
            isinstance(value, tuple)
            and all(isinstance(name, str) and name.count("*") <= 1 for name in value)
        ),
    ),
    "takes": (
        f"a tuple of {', '.join(BEYOND)}",
        lambda value: isinstance(value, property) or {*value} <= BEYOND.keys(),
    ),
    "views": ("a number, 1 or more", lambda value: isinstance(value, int) and value > 0),
}


def register(cls: type[Method]) -> type[Method]:
    """Make a method known under the name of its class.

    Raises:
        UserError: it is no class of a method, or there is one of that name.

    Examples:
        >>> from trainers.prompting.methods.coop import CoOp
        >>> @register
        ... class Softened(CoOp):
        ...     def loss(self, output, batch):
        ...         return F.cross_entropy(output.logits, batch.labels, label_smoothing=0.1)
        >>> find_method("Softened").node
        'COOP'
    """
    name = getattr(cls, "__name__", repr(cls))
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise UserError(
            f"'{name}' is no class of a method: put @register above a class that inherits from "
            "`Method`"
        )
    known = METHODS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, name):
        raise UserError(
            f"{cls.__module__} registers a method '{name}', but {known.__module__} has one of "
            "that name: rename the class"
        )
    for key, (wanted, holds) in DECLARED.items():
        value = getattr(cls, key, None)
        if not holds(value):
            raise UserError(f"`{key}` of the method {name} is {value!r} but must be {wanted}")
    if cls.Settings is Method.Settings:
        raise UserError(
            f"The method {name} has no settings: give it a dataclass `Settings`, or a dict "
            "`defaults`"
        )
    if "__dataclass_fields__" not in vars(cls.Settings):  # of its own, not of its base
        raise UserError(
            f"The Settings of {name} are no dataclass: put @dataclass(frozen=True) above them, and "
            "@register above the method"
        )
    METHODS[name] = cls
    return cls


def find_method(name: str) -> type[Method]:
    """The method of a name.

    Raises:
        UserError: there is none; says which is nearest.
    """
    return METHODS[check_name("method", name, METHODS)]
