"""The base class of all methods, from images to logits to loss.

The equation of a method stands in its own file. Here are first the words that a method is said in,
below them what few methods define, and then what is the same for all. What some methods share and
others have not is in `capabilities`. It is long because all methods are of this class.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import node as nodes
from .backbones import family_of
from .checkpoint import state
from .checkpoint.public import Public
from .checkpoint.saved import Saved
from .contract import ENCODERS, check_built, check_calibrated, with_sentences
from .encoders.added import NONE, Additions
from .encoders.class_text import class_text, zero_shot_template
from .encoders.sentences import check_names
from .encoders.sides import features_width, widths
from .encoders.text import TextEncoder, TextFeatures
from .encoders.text_cache import TextCache
from .encoders.uncalled import uncalled_modules
from .encoders.vision import ImageEncoder, ImageFeatures
from .errors import UserError, check_name, need
from .full_precision import gradients_of, no_autocast
from .losses import calibration, classification
from .prompts import Contexts, public_name
from .teacher import Teacher

METHODS: dict[str, type["Method"]] = {}
Images = torch.Tensor | Sequence[torch.Tensor]  # one view, or several
Scale = Callable[[torch.Tensor], torch.Tensor]
LABELS = torch.int64  # their type
SEVERAL = torch.int8  # that of several labels an image: 1, 0, and -1 where it is unknown
CHUNK_BYTES = 256 << 20


class Output(NamedTuple):
    """The output of a forward pass, for losses.

    logits: (B, K), float32; image and text: the features from which the logits were computed, with
    z (B, M, D) and h (N, K, D), or h (B, K, D) if contexts are conditional on the image.
    """

    logits: torch.Tensor
    image: ImageFeatures
    text: TextFeatures


class Batch(NamedTuple):
    """A batch of a training step: views of the same B images, each (B, 3, H, W); labels (B,).

    Labels of several classes are (B, K), int8: 1 present, 0 absent, -1 unknown. Unlabelled images
    have labels (0,). index (B,) are rows of the training set; None in notebooks,
    and where steps take the features of the support.
    """

    views: list[torch.Tensor]
    labels: torch.Tensor
    index: torch.Tensor | None = None  # type: ignore[assignment]

    @property
    def images(self) -> torch.Tensor:
        """The first view, from which the model's output is computed."""
        return self.views[0]


def check_takes_several(kind: type["Method"], several: bool) -> None:
    """Refuse a method for images with several labels if it takes one (UserError)."""
    need(
        kind.several or not several,
        f"{kind.__name__} takes one label an image, but here images have several: choose "
        f"{' or '.join(name for name, kind in METHODS.items() if kind.several)}",
    )


class Method(nn.Module):
    """Base class of all methods; `--trainer` takes the name of a subclass.

    As it stands it is zero-shot CLIP with cross-entropy, and a subclass defines what differs. In a
    step, `contexts` and `blocks` enter the encoders, of which `image_features` and `text_features`
    are made; `logits` compares them, and `loss` compares the logits with the labels.

    What is learned is made in `build` and is the method's own: CLIP's tensors are frozen and
    shared. Buffers, too, are saved in every checkpoint. They must not depend on the class names,
    which may differ when they are loaded: register a buffer that does with `persistent=False`.

    Attributes: Class attributes
        node: name of the method's node under `cfg.TRAINER`. Several methods may share one.
        Settings: a frozen dataclass that inherits from `Method.Settings`: a field for each key of
            the node, with its type and its public value; `__post_init__` checks the values.
        training_only: keys of `Settings` that only a training reads: those of an evaluation may
            differ, and records have the training's.
        takes: keys of `BEYOND`, for what the method uses besides labelled images; tables show
            them. May be a property that depends on the settings.
        rules: of DATASET.SENTENCES_RULE that the method takes, which asks `class_text` for its
            sentences; empty if none can be given.
        joint: False if the logit of a class depends on the other classes, or other classes cannot
            be named; base and new classes together are then left out.
        several: what it makes of images with several labels: empty if it refuses them, `ranks` if
            the scores order images within a class, `decides` if sigmoids of logits are
            probabilities. A subclass, whose loss may be another, does not inherit it.
        class_bound: True if something is learned for each class, such as prototypes or a cache
            with labels; checkpoints are then refused for other classes. May be a property.
        trains: False if nothing is trained and the method is only evaluated. One without parameters
            trains if its `backward` updates buffers.

    Attributes:
        settings: the `Settings` of this instance.
        text_encoder, image_encoder: CLIP's encoders, frozen, for the sentences of this method.
        num_classes: K.
        width: D, of the features.
        widths: of the encoders, `text` and `image`, if they have blocks.
        logit_scale: (), float32, CLIP's 1 / tau.

    Examples:
        >>> from trainers.prompting import build_method, load_clip
        >>> method = build_method("CoOp", {}, load_clip("emoji"), ["cat", "dog"])
        >>> method.backward(method.losses(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])))
        >>> bool(method.prompt_learner.ctx.grad.isfinite().all())
        True
    """

    node: ClassVar[str]
    training_only: ClassVar[tuple[str, ...]] = ()
    takes: tuple[str, ...] = ()
    rules: ClassVar[tuple[str, ...]] = ()
    joint: ClassVar[bool] = True
    several: ClassVar[str] = ""
    class_bound: bool = False
    trains: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(nodes.Settings):
        """Base of the `Settings` of every method."""

    settings: Any
    logit_scale: torch.Tensor

    def encoders(
        self, clip_model: Any, classnames: Sequence[str], dataset: str
    ) -> tuple[TextEncoder, ImageEncoder]:
        """Make the encoders: the sentences, the positions of learned tokens, what is returned."""
        text = class_text(self.settings, classnames, dataset)
        return text.encoder(clip_model), ImageEncoder(clip_model.visual)

    def build(self, clip_model: Any, classnames: Sequence[str], dataset: str) -> None:
        """Make what is learned, as sub-modules with the names of public checkpoints; teachers."""

    def contexts(self) -> Contexts:
        """Return the learned tokens for both encoders, once a step."""
        return Contexts()

    def blocks(self, side: str) -> Additions:
        """Return the additions to blocks of an encoder, `text` or `image`, by block, from 0."""
        return NONE

    def image_features(self, images: torch.Tensor, contexts: Contexts) -> ImageFeatures:
        """Return the features of normalised images (B, 3, H, W), or of CLIP's features of them."""
        added = self.blocks("image")
        if images.shape[1:] == (self.width,):
            inside = "learns inside the image encoder" if contexts.vision or added else ""
            more = inside or self.image_encoder.more
            need(
                not more,
                f"{type(self).__name__} {more}, so it takes images (B, 3, H, W), not rows of "
                f"features {tuple(images.shape)}: give it images, or choose another method",
            )
            return ImageFeatures(F.normalize(images, dim=-1)[:, None], None, raw=images[:, None])
        self.image_encoder.check(images)
        return self.image_encoder(images, contexts.vision, added)

    def text_features(self, contexts: Contexts) -> TextFeatures:
        """Return the features of the K classes.

        They are kept until what enters the encoder changes, unless they carry a gradient. In
        training only those are kept in which nothing is learned: there may be dropout.
        """
        added = self.blocks("text")
        inside = bool(contexts.text or added) or contexts.inserted is not None or self._thawed
        training = inside and (torch.is_grad_enabled() or self.training)
        if training and any(p.requires_grad for _, p in self.own_parameters()):
            self._text_cache.forget()
            return self.text_encoder(contexts.text, contexts.inserted, added)
        return self._text_cache.features(self.text_encoder, contexts.text, contexts.inserted, added)

    def logits(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return logits (B, K) of features in float32: by default s cos(z, h), s the scale."""
        return self.logit_scale * image.z[:, 0] @ text.h[0].T

    def loss(self, output: Output, batch: Batch) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the loss of a step: by default the cross-entropy, or the asymmetric loss.

        Returns:
            A scalar, or terms by name. The term called `loss` is minimised; without one, the sum.
        """
        return classification(output.logits, batch.labels)

    def predict(self, images: Any) -> Output:
        """Return the output of an evaluation; a method that adapts at test time overrides it.

        Images are (B, 3, H, W); with `AtTestTime.test_views`, a list of views of this shape.
        """
        return self.output(images)

    # ------------------------------------------------ what few methods define, and all may

    public: Public = Public("prompt_learner", submodule="", dead=(), outside={}, ignored=())
    test_keys: ClassVar[tuple[str, ...]] = ()  # which an evaluation sets anew: records have its own
    views: ClassVar[int] = 1  # augmentations of an image in a step (DATALOADER.K_TRANSFORMS)
    sgd: ClassVar[tuple[str, ...]] = ()  # beginnings of names that OPTIM.NAME adamw trains by SGD
    needs_all_labels: ClassVar[bool] = False  # True if none of several may be unknown
    rates: ClassVar[Mapping[str, float]] = {}  # factors of OPTIM.LR, by beginnings of names
    chunk_bytes: int = CHUNK_BYTES  # the most memory for token-level costs of one chunk

    @dataclass(frozen=True)
    class Scaled(Settings):
        """Base of the `Settings` of methods whose logits may have another scale than the CLIP's."""

        SCALE: nodes.NotNegative = 0.0  # of the logits, often 100; 0 takes the CLIP's own

    def output(self, images: torch.Tensor) -> Output:
        """Return the logits of normalised images (B, 3, H, W), and the features they come from.

        If the method reads only the feature of CLIP's own image encoder, the output (B, D) of
        `clip_features` may replace the images.

        Raises:
            UserError: rows of features are given, but the method needs more.
            ValueError: the images have another shape.
        """
        contexts = self.contexts()
        image, text = self.image_features(images, contexts), self.text_features(contexts)
        return Output(self.compare(image, text), image, text)

    def from_features(self, image: ImageFeatures) -> Output:
        """Return the output for features of images, which may have been computed for other names.

        What is learned must be the same, as in the joint evaluation of base and new classes.
        """
        text = self.text()
        return Output(self.compare(image, text), image, text)

    @property
    def conditional(self) -> bool:
        """True if each image has text features of its own, h (B, K, D), by `from_features`."""
        return type(self).from_features is not Method.from_features

    def backward(self, terms: dict[str, torch.Tensor], scale: Scale = lambda loss: loss) -> None:
        """Write the gradient for the optimiser to `.grad` of each learned parameter.

        Args:
            terms: as returned by `losses`.
            scale: multiplies a loss, against underflow in half precision; the gradients that are
                written must be scaled.
        """
        scale(terms["loss"]).backward()

    def cosines(
        self, image: ImageFeatures, text: TextFeatures
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return cosines for the detection of other classes (TEST.OOD), if not the default ones.

        Returns:
            (B, K) for images and (B, P, K) for their patches. None takes the cosines of the logits
            and the means over the prompts.
        """
        return None

    def clip_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, D), float32, of images (B, 3, H, W): no prompts, not normalised.

        Rows of features (B, D) are returned as they are. Only images that need a gradient have one.

        Raises:
            ValueError: as `output`.
        """
        if images.shape[1:] == (self.row_width,):
            return images.float()
        self.image_encoder.check(images)
        with gradients_of(images):
            return self.image_encoder(images).raw[:, 0].float()  # type: ignore[index]

    def public_name(self, name: str) -> str:
        """Return the name of a learned parameter in public whole-model checkpoints."""
        return public_name(name)

    # ------------------------------------------------ the same for all: made

    defaults: ClassVar[dict[str, Any]]
    logit_bias: torch.Tensor | None  # of CLIPs with a sigmoid loss

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.defaults = nodes.defaults_of(cls.Settings)
        if not cls.trains:
            del cls.defaults["CALIBRATE"]
        elif "CALIBRATE" not in cls.training_only:
            cls.training_only = (*cls.training_only, "CALIBRATE")
        cls.several = vars(cls).get("several", "")
        if own := vars(cls).get("public"):
            bases = (vars(base) for base in cls.__mro__[1:])
            cls.public = own.beside(next(base["public"] for base in bases if "public" in base))

    def __init__(
        self,
        settings: nodes.Settings,
        clip_model: Any,
        classnames: Sequence[str],
        dataset: str = "",
    ):
        """Build the method.

        Args:
            settings: the node in full, as `node.read_node` returns it.
            clip_model: a CLIP from `load_clip`. Its modules are used and frozen, not copied.
            classnames: K names; `_` reads as a space.
            dataset: name of the data set, which selects hand-written sentences.

        Raises:
            UserError: the settings do not fit the backbone, or a class name is too long.
            TypeError: `classnames` is a text.
        """
        super().__init__()
        check_names(classnames)
        check_takes_several(type(self), settings.several)
        clip_model.requires_grad_(False)
        settings = with_sentences(type(self), settings, clip_model, classnames)
        self.settings, self.num_classes = settings, len(classnames)
        self.width, self.widths = features_width(clip_model), widths(clip_model)
        self.row_width = self.width  # of the rows of `clip_features`; a method may read others
        self.mean, self.std = family_of(clip_model)[1:3]  # of images, for each channel
        self.training_classnames = list(classnames)  # or those of a checkpoint that is loaded
        self.uncalled = uncalled_modules(clip_model)  # modules that are never called, by name
        self.text_encoder, self.image_encoder = self.encoders(clip_model, classnames, dataset)
        scale, bias = clip_model.logit_scale.detach().exp(), getattr(clip_model, "logit_bias", None)
        self.register_buffer("logit_scale", scale, persistent=False)
        if isinstance(settings, Method.Scaled) and settings.SCALE:
            self.logit_scale.fill_(settings.SCALE)
        self.register_buffer("logit_bias", bias if bias is None else bias.detach(), False)
        self._text_cache = TextCache()
        self.build(clip_model, classnames, dataset)
        check_built(self, clip_model)
        if settings.CALIBRATE:  # its moments are those of these text features
            self.untouched = Teacher(clip_model, classnames, [zero_shot_template(dataset)])
        self._thawed = any(p.requires_grad for p in self.text_encoder.parameters())  # of a copy
        self._fixed = {name for name, p in self.own_parameters() if not p.requires_grad}
        self.class_buffers = state.digests_by_class(self.own_state(), self.num_classes)

    @property
    def device(self) -> torch.device:
        """The device of the method."""
        return self.logit_scale.device

    # ------------------------------------------------ the same for all: a step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K), float32, of normalised images (B, 3, H, W)."""
        return self.output(images).logits

    def compare(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return the final logits (B, K): `logits` in float32, plus the bias of the CLIP."""
        with no_autocast(image.z.device.type):
            image = image._replace(z=image.z.float())  # r and s are large: converted where read
            text = text._replace(h=text.h.float(), raw=text.raw.float())
            logits = self.logits(image, text)
        return logits if self.logit_bias is None else logits + self.logit_bias

    def losses(self, images: Images, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the terms of a step's loss, with their total as `loss`.

        Images are (B, 3, H, W), normalised, or a list of views of this shape; labels are (B,), or
        (B, K) if images have several.
        """
        batch = self.batch(images, labels)
        if self.settings.several and labels.device.type == "cpu":  # a GPU would be waited for
            need((labels.abs() <= 1).all(), "Labels must be 1, 0 or -1 (unknown), and are others")
            need(
                not self.needs_all_labels or (labels >= 0).all(),
                f"{type(self).__name__} needs all labels, and some are -1 (unknown): leave their "
                "images out, or choose another method",
            )
        return self.terms(self.output(batch.images), batch)

    def batch(
        self, images: Images, labels: torch.Tensor, index: torch.Tensor | None = None
    ) -> Batch:
        """Return images, labels and rows as a `Batch`; UserError if views or labels do not fit."""
        views = [images] if isinstance(images, torch.Tensor) else list(images)
        self._check_batch(views, labels)
        return Batch(views, labels, index)

    def _check_batch(self, views: Sequence[torch.Tensor], labels: torch.Tensor) -> None:
        """Refuse too few views, and labels of another type or shape than images have."""
        name, kind, B = type(self).__name__, LABELS, len(views[0])
        shape: tuple[int, ...] = (B,)
        each = "the number of one class for each image"
        if self.settings.several:
            kind, shape = SEVERAL, (B, self.num_classes)
            each = "1, 0 or -1 (unknown) for each image and class"
        if len(views) < self.views:
            raise UserError(
                f"{name} learns from {self.views} views of an image but gets {len(views)}: set "
                f"DATALOADER.K_TRANSFORMS {self.views}"
            )
        if labels.dtype != kind or labels.shape != shape:
            raise UserError(
                f"Labels are {labels.dtype} of the shape {tuple(labels.shape)}, but must be {kind} "
                f"of {shape}: give {name} {each}"
            )

    def terms(self, output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the same as `losses` for an output that has been computed."""
        loss = self.loss(output, batch)
        terms = loss if isinstance(loss, dict) else {"loss": loss}
        terms = {name: value.reshape(()) for name, value in terms.items()}
        total = terms["loss"] if "loss" in terms else torch.stack([*terms.values()]).sum()
        if self.settings.CALIBRATE:
            check_calibrated(self, output, batch)
            h, h0 = output.text.h[0].float(), self.untouched.h  # with amp, encoders need autocast
            with no_autocast(output.logits.device.type):
                more = calibration(output.logits, batch.labels, h, h0)
            terms = {"own": total, **more} if terms.keys() == {"loss"} else {**terms, **more}
            total = total + torch.stack([*more.values()]).sum()
        return {"loss": total, **{k: v for k, v in terms.items() if k != "loss"}}

    @torch.no_grad()
    def text(self) -> TextFeatures:
        """Return the features of the K classes as they are now, without gradient.

        They are of no use if they depend on the image (`conditional`).
        """
        return self.text_features(self.contexts())

    # ------------------------------------------------ the same for all: learned, and saved

    @classmethod
    def place(cls, key: str) -> str:
        """Return the full dotted name in a cfg of a key of the node."""
        return cls.public.outside.get(key, f"TRAINER.{cls.node}.{key}")

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters but those of CLIP, which checkpoints hold, with their names."""
        yield from self.named_parameters(recurse=False)
        for name, module in self.named_children():
            if name not in ENCODERS:
                yield from module.named_parameters(name)

    def learned(self) -> dict[str, nn.Parameter]:
        """Return what the method learns, by name: its parameters that `build` has not frozen.

        Of tied parameters it has the first name, so that an optimiser updates them once.
        """
        named = [(name, p) for name, p in self.own_parameters() if name not in self._fixed]
        first = {p: name for name, p in reversed(named)}
        return {name: p for name, p in named if first[p] == name}

    def public_parameters(self) -> dict[str, nn.Parameter]:
        """Return all own parameters under the names of public whole-model checkpoints."""
        return {self.public_name(name): p for name, p in self.own_parameters()}

    def public_state_dict(self) -> dict[str, torch.Tensor]:
        """Return what is learned, with the names and shapes of public checkpoints."""
        return {name: p.detach() for name, p in self.public_parameters().items()}

    @classmethod
    def other_nodes(cls) -> set[str]:
        """Return the nodes of the cfg that belong to other methods only."""
        return {method.node for method in METHODS.values()} - {cls.node}

    def load_public_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load what is learned from a public checkpoint (docs/methods.md, section 7).

        Args:
            state_dict: the state of the whole published model, or only of its part. Frozen and
                unused weights in it are ignored.

        Raises:
            UserError: a name is unknown or missing, or a shape does not fit.
        """
        own, encoders = self.public_parameters(), (self.image_encoder, self.text_encoder)
        state.load_parameters(
            own, state_dict, lambda name: self.public.is_unused(name, *encoders),
            self.public.beginning,
        )  # fmt: skip

    def own_state(self) -> dict[str, Any]:
        """Return the persistent buffers of the method, which checkpoints hold."""
        tensors: dict[str, Any] = {}
        self._save_to_state_dict(tensors, "", True)
        for name, module in self.named_children():
            if name not in ENCODERS:
                module.state_dict(destination=tensors, prefix=f"{name}.", keep_vars=True)
        return {name: x for name, x in tensors.items() if not isinstance(x, nn.Parameter)}

    def load_own_state(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load what `own_state` returned; raises UserError if it is another's, or does not fit."""
        state.load_buffers(self, self.own_state(), state_dict)

    def load_checkpoint(self, checkpoint: Saved, classnames: Sequence[str]) -> None:
        """Load what is learned and buffers from a checkpoint, ours or public, for K class names.

        Raises:
            UserError: it does not fit the method, or cannot be used for other classes.
        """
        name, saved = type(self).__name__, checkpoint.classnames
        others = self.check_classes(saved, classnames)
        self.training_classnames = list(saved or classnames)
        try:
            self.load_public_state_dict(checkpoint.state_dict)
        except UserError:
            sizes = len(saved or ()), len(classnames)
            state.check_per_class(self.public_parameters(), checkpoint.state_dict, *sizes)
            raise
        kept = checkpoint.method
        if kept is not None and checkpoint.trainer == name:  # else of other code or method
            if others:
                made = checkpoint.class_buffers
                state.check_other_classes(name, self.own_state(), kept, made, self.class_buffers)
            self.load_own_state(kept)

    def other_classes(self, saved: Sequence[str] | None, classnames: Sequence[str]) -> bool:
        """Return True if class names are not those of a checkpoint; None if it does not say."""
        return saved is not None and list(saved) != list(classnames)

    def check_classes(self, saved: Sequence[str] | None, classnames: Sequence[str]) -> bool:
        """Return `other_classes`; raises UserError if a checkpoint is bound to its classes."""
        others = self.other_classes(saved, classnames)
        if others and self.class_bound:
            raise UserError(
                f"{type(self).__name__} has parameters for each class of its training: use it only "
                "on those classes"
            )
        return others


def import_methods(name: str = "") -> None:
    """Import the files of the methods that are built in, which registers them.

    Given a name, only the file with this class is imported, if there is one.
    """
    files = sorted(Path(__file__).with_name("methods").glob("[!_]*.py"))
    own = [file for file in files if f"\nclass {name}(" in file.read_text("utf-8")]
    if own or name not in METHODS:
        for file in own or files:
            importlib.import_module(f"{__package__}.methods.{file.stem}")


def find_method(name: str) -> type[Method]:
    """Return the method of this name; raises UserError with the nearest one if there is none."""
    import_methods(name)
    return METHODS[check_name("method", name, METHODS)]
