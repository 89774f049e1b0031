"""The base class of all methods, and their registry.

A method is a choice of prompts, its `PromptSpec`, and a loss. The file is long because everything
that a method can define is documented in one place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import node as nodes
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
    """A batch of a training step: views of the same B images, each (B, 3, H, W); labels (B,)."""

    views: list[torch.Tensor]
    labels: torch.Tensor

    @property
    def images(self) -> torch.Tensor:
        """The first view, from which the model's output is computed."""
        return self.views[0]


class Method(PublicFiles, nn.Module):
    """Base class of all methods; `--trainer` takes the name of a subclass.

    A subclass defines `node`, `Settings` and `point`. The rest has defaults: cross-entropy, one
    backward pass, one view, only the prompts are trained, and the parameters are the only state.

    Buffers of the method and of `model.parts` are saved in every checkpoint, and loaded together
    with the prompts: when a run resumes, in an evaluation, by `load_run`. They must not depend on
    the class names, which may differ then: if `setup` makes a buffer from the class names, register
    it with `persistent=False`. A buffer whose length is unknown before training starts empty.

    Attributes: Class attributes
        node: name of the method's node under `cfg.TRAINER`. Several methods may share one.
        Settings: a frozen dataclass that inherits from `Method.Settings`: a field for each key of
            the node, with its type and its public value.
        defaults: the keys of `Settings` with their values.
        outside: keys that the public code keeps elsewhere in the cfg, with their full names, such
            as `{"W": "TRAINER.W"}`; they are fields of `Settings`, too.
        ignored: keys of the public node that have no effect here; a run that sets one gets a
            warning.
        training_only: keys of `Settings` that may differ between training and evaluation.
        checkpoint: name of the folder in which the public code saves its model.
        saves_submodule: True if public checkpoints hold only the `prompt_learner`, or the name of
            the sub-module that they hold.
        dead_weights: prefixes of names in public checkpoints that have no effect here, without
            the name of the sub-module.
        views: number of augmentations of an image that a step needs (`DATALOADER.K_TRANSFORMS`).
        trains: False if nothing is trained and the method is only evaluated.
        takes: keys of `BEYOND`, for what the method uses besides labelled images; tables show
            them. May be a property that depends on the settings.
        class_bound: True if something is learned for each class, such as prototypes or a cache
            with labels; checkpoints are then refused for other classes.
        support_passes: number of times that `take_support` sees each training image; 0 if the
            method takes no support. May be a property that depends on the settings.
        trains_on_support: True if steps take the features of the support instead of images.
        searches: True if `take_validation` is called. May be a property.

    Attributes:
        model: the `PromptedCLIP`.
        settings: the `Settings` of this instance.
        regularizers: terms added to the cross-entropy, as (weights by name, teacher); set by
            `setup`.
        class_buffers: digests of the buffers that `setup` may have made from the class names.

    Args:
        settings: the node in full, as `config.read_node` returns it.
        clip_model: a CLIP from `load_clip`.
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
        point = self.point(settings).with_(settings=settings)
        self.model = PromptedCLIP(clip_model, classnames, point, dataset)
        self.model.dead_weights = self.dead_weights
        if isinstance(self.saves_submodule, str):
            self.model.submodule = self.saves_submodule
        self.setup(clip_model, classnames, dataset)
        self.model.check_parts(type(self).__name__, clip_model)
        self.class_buffers = state.digests_by_class(self.own_state(), self.model.num_classes)

    # ------------------------------------------------------------------ what a method may define

    @staticmethod
    def point(settings: Any) -> PromptSpec:
        """Return the `PromptSpec` for these `Settings`, the method's point in the prompt space."""
        raise NotImplementedError

    def setup(self, clip_model: Any, classnames: Sequence[str], dataset: str) -> None:
        """Make what the method needs besides prompts: a teacher, `self.model.parts`, buffers."""

    def loss(self, output: Output, batch: Batch) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the loss of a step: by default the cross-entropy and the weighted regularisers.

        Returns:
            A scalar, or terms by name. The term called `loss` is minimised; without one, the sum.
        """
        terms = {"ce": F.cross_entropy(output.logits, batch.labels)}
        for weights, teacher in self.regularizers:
            terms |= regularize(weights, teacher, output, batch.images)
        return terms if self.regularizers else terms["ce"]

    def backward(self, terms: dict[str, torch.Tensor], scale: Scale = lambda loss: loss) -> None:
        """Write the gradient for the optimiser to `.grad` of each trained parameter.

        Args:
            terms: as returned by `losses`.
            scale: multiplies a loss, against underflow in half precision; the gradients that are
                written must be scaled.

        Raises:
            UserError: the loss does not depend on any trained parameter.
        """
        if not terms["loss"].requires_grad:
            raise UserError(
                f"The loss of {type(self).__name__} does not depend on what is trained: compute it "
                "from the features and logits of the output, without `detach` or `no_grad`"
            )
        scale(terms["loss"]).backward()

    def make_room(self, n: int) -> None:
        """Resize the tensors that `take_support` fills to n training images.

        Called before an optimiser is made and, with 0, before a checkpoint is loaded: a parameter
        or buffer without elements takes its size from the checkpoint.
        """

    def keep_classes(self, index: Sequence[int]) -> None:
        """Reduce what a loaded checkpoint has for each of its classes to the method's classes.

        A `class_bound` method that overrides this accepts checkpoints that have more classes.

        Args:
            index: for each class of the method, its number among the classes of the checkpoint.
        """

    def take_support(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the training set before the first step; not called if a checkpoint is loaded.

        Args:
            features: (passes, n, D), float32, of CLIP's image encoder, not normalised; each pass
                sees other augmentations.
            labels: (n,).
        """

    def take_validation(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the validation images after the last step.

        Args:
            features: (n, D), as in `take_support`, without augmentation.
            labels: (n,).
        """

    def after_epoch(self, epoch: int, last: int) -> None:
        """Do what follows the last step of an epoch, 1 to `last`, before it is saved or tested."""

    # ------------------------------------------------------------------ what calls the above

    @classmethod
    def place(cls, key: str) -> str:
        """Return the full dotted name in a cfg of a key of the node."""
        return cls.outside.get(key, f"TRAINER.{cls.node}.{key}")

    def losses(self, images: Images, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the terms of a step's loss, with their total as `loss`.

        Args:
            images: (B, 3, H, W), normalised, or a list of views of this shape.
            labels: (B,).
        """
        batch = self.batch(images, labels)
        return self.terms(self.model.output(batch.images), batch)

    def batch(self, images: Images, labels: torch.Tensor) -> Batch:
        """Return images and labels of a loader as a `Batch`.

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
        """Return the same as `losses` for an output that has been computed."""
        found = self.loss(output, batch)
        terms = found if isinstance(found, dict) else {"loss": found}
        terms = {name: value.reshape(()) for name, value in terms.items()}
        total = terms["loss"] if "loss" in terms else torch.stack([*terms.values()]).sum()
        return {"loss": total, **{k: v for k, v in terms.items() if k != "loss"}}

    def own_state(self) -> dict[str, Any]:
        """Return the buffers of the method and its parts, which checkpoints hold."""
        parameters = self.model.parts.named_parameters(remove_duplicate=False)
        trained = {state.PARTS + name for name, _ in parameters}
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith("model.")
            or (name.startswith(state.PARTS) and name not in trained)
        }

    def load_own_state(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load what `own_state` returned.

        Raises:
            UserError: the state belongs to another method, or a value does not fit.
        """
        state.load_buffers(self, self.own_state(), state_dict)

    def load_checkpoint(self, checkpoint: Mapping[str, Any], classnames: Sequence[str]) -> None:
        """Load prompts, parts and buffers from a checkpoint, ours or a public one.

        Args:
            checkpoint: as `read_checkpoint` returns it.
            classnames: K names, those that the method was built for.

        Raises:
            UserError: it does not fit the method, or cannot be used for other classes.
        """
        name, saved = type(self).__name__, checkpoint.get("classnames")
        if saved is not None and not state.are_texts(saved):
            raise UserError(
                "The checkpoint does not name its classes: take another, or train again"
            )
        others = saved is not None and list(saved) != list(classnames)
        class_specific = self.model.spec.class_specific
        some = []  # for each class of the method, its number in the checkpoint
        if others and type(self).keep_classes is not Method.keep_classes:
            names = list(saved or ())  # if a name is repeated, the first counts
            number = {name: k for k, name in reversed([*enumerate(names)])}
            some = [number[name] for name in classnames if name in number]
        others = others and len(some) < len(classnames)
        if others and (self.class_bound or class_specific):
            raise UserError(
                f"{name} has parameters for each class of its training"
                f"{' (CSC)' if class_specific else ''}: use it only on those classes"
            )
        self.make_room(0)
        self.model.load_public_state_dict(checkpoint.get("state_dict", checkpoint))
        if self.model.parts.own_classes is not None:
            self.model.parts.own_classes = not others
        kept = checkpoint.get("method")
        if kept is None or checkpoint.get("trainer") != name:  # written by other code or method
            return
        if others:
            made = checkpoint.get("class_buffers")
            state.check_other_classes(name, self.own_state(), kept, made, self.class_buffers)
        self.load_own_state(kept)
        if some:
            self.keep_classes(some)


def register(cls: type[Method]) -> type[Method]:
    """Add a method to the registry, under the name of its class.

    Raises:
        UserError: another method has the same name, or its `Settings` is not a dataclass.

    Examples:
        >>> from trainers.prompting.methods.coop import CoOp
        >>> @register
        ... class Softened(CoOp):
        ...     def loss(self, output, batch):
        ...         return F.cross_entropy(output.logits, batch.labels, label_smoothing=0.1)
        >>> find_method("Softened").node
        'COOP'
    """
    name = cls.__name__
    known = METHODS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, name):
        raise UserError(
            f"{cls.__module__} registers a method '{name}', but {known.__module__} has registered "
            "that name: rename the class"
        )
    if "__dataclass_fields__" not in vars(cls.Settings):  # not those inherited from its base
        raise UserError(
            f"`Settings` of {name} is not a dataclass: put @dataclass(frozen=True) above it, and "
            "@register above the method"
        )
    METHODS[name] = cls
    return cls


def find_method(name: str) -> type[Method]:
    """Return the method of this name.

    Raises:
        UserError: there is none; names the nearest.
    """
    return METHODS[check_name("method", name, METHODS)]
