"""PromptKD (Li et al., CVPR 2024; arXiv:2403.02781).

PromptKD: Unsupervised Prompt Distillation for Vision-Language Models.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..backbones import load_clip, weights_sha256
from ..capabilities.earlier import build_earlier
from ..capabilities.staged import Staged
from ..capabilities.taught import Taught
from ..capabilities.unlabelled import Unlabelled
from ..checkpoint.public import Public
from ..checkpoint.saved import Saved
from ..encoders.vision import ImageFeatures
from ..errors import UserError, need
from ..full_precision import no_autocast
from ..marks import EQUAL
from ..method import Method, find_method
from ..node import From0, NotNegative, Positive, Settings
from ..registry import register
from ..teacher import MethodTeacher
from .ivlp import IVLP
from .promptsrc import PromptSRC
from .vpt import VPT

NORM = "VPT_image_trans.conv1.1."
RUNNING = ("running_mean", "running_var")  # which public checkpoints hold, too
KEY = "TRAINER.PROMPTKD.TEACHER"
TRAIN_ONE = (
    "train a PromptSRC on the base classes first (TRAINERS=PromptSRC bash scripts/base2new.sh), or "
    "give the output folder of another run of it"
)
USUAL_WIDTH = {"ViT-L/14": 768}  # of the features of a teacher that is not given


@register
class PromptKD(Unlabelled, Taught, Staged, VPT):
    """Visual prompts that imitate a larger CLIP with learned prompts, on images without labels.

    The student has VPT's visual prompts and no text. u is its image feature before normalisation;
    C1, C2 are linear with biases, BN a BatchNorm, h^T_k the text features of the teacher:

        f = C2 ReLU(BN(C1 u)),   l = s normalise(f) . h^T,   l^T = s_T z^T . h^T
        p = softmax(l^T / tau),   q = softmax(l / tau)
        L = KD_WEIGHT tau^2 mean_jk p log(p / q)

    The teacher is a frozen PromptSRC on a larger CLIP, TEACHER_NAME, of which the student's
    checkpoint has the text features and what is known of its training. TEACHER, only here, is the
    output folder of a run or a public checkpoint; `{run}`, `{seed}` and `{dataset}` in it are those
    of the student. N_CTX_TEXT, PROMPT_DEPTH_TEXT and CTX_INIT have no effect.

    A step takes training images of all classes, base and new, however many the shots, and no
    labels; tables mark it `unlabelled` and `teacher`. Across data sets, each target has its own
    student: it runs in few_shot with `CONFIG=cross_dataset` and a teacher trained on ImageNet.

    **Published.** KD_WEIGHT 1000; 200 for FGVCAircraft, OxfordFlowers and DescribableTextures. The
    public code keeps the epoch that is best on the test set, this one the last.

    **Checkpoint.** `image_encoder.VPT`, `image_encoder.transformer.resblocks.{i}.VPT_shallow`,
    `VPT_image_trans.conv1.{0,1,3}` with the running statistics of the BatchNorm.
    """

    node = "PROMPTKD"
    public = Public(
        folder="VLPromptLearner",
        dead=(f"{NORM}num_batches_tracked",),
        ignored=("N_CTX_TEXT", "PROMPT_DEPTH_TEXT", "CTX_INIT", "PROJECT_LAYER", "CE_WEIGHT"),
    )
    training_only = ("TEACHER", "KD_WEIGHT", "TEMPERATURE")
    taught_by = {"TEACHER": "TEACHER_NAME"}

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node, without those of the teacher's prompts, which its checkpoint has.

        The public code finds the teacher in a folder of its own; TEACHER is a key only here.
        """

        N_CTX_VISION: From0 = 4
        PROMPT_DEPTH_VISION: int = 9
        TEACHER: str = ""
        TEACHER_NAME: str = "ViT-L/14"
        TEMPERATURE: Positive = 1.0
        KD_WEIGHT: NotNegative = 1.0  # published: 1000

    settings: Settings
    teacher: MethodTeacher

    @property
    def takes(self):
        """The marks; a teacher may be no larger than the student."""
        return "unlabelled", "teacher" if self.teacher.origin.get("larger", True) else EQUAL

    def fixed_template(self):
        """Return the template of the student's sentences, which nothing reads."""
        return "a photo of a {}."

    def build(self, clip_model, classnames, dataset):
        """Make the prompts, the teacher if there is one, and the map to its width."""
        super().build(clip_model, classnames, dataset)
        self._names, name = list(classnames), self.settings.TEACHER_NAME
        self._taught: Callable[..., MethodTeacher] | None = None
        try:
            self._taught = self._find_teacher(clip_model, dataset)
            self.teacher = self._taught(classnames)
        except UserError as error:  # its checkpoint has what an evaluation needs
            self.teacher = MethodTeacher(why=str(error))
        method = self.teacher.method
        self._resize(method.width if method else USUAL_WIDTH.get(name, self.width))

    def _find_teacher(self, clip_model: Any, dataset: str) -> Callable[..., MethodTeacher]:
        """Return what makes the teacher for class names."""
        place, name = self.settings.TEACHER, self.settings.TEACHER_NAME
        need(
            place,
            "PromptKD has no teacher: train a PromptSRC on a larger CLIP, and set "
            f"{KEY} to its output folder, TEACHER_NAME to its CLIP",
        )
        saved = Saved.find(place, KEY, TRAIN_ONE)
        kind: type[Method] = PromptSRC
        settings: Settings | None = None  # those of the run
        if saved.trainer is None:
            settings = PromptSRC.Settings(**_prompt_sizes(saved), dataset=dataset)
        else:
            kind = find_method(saved.trainer)
            need(
                issubclass(kind, IVLP),
                f"The teacher in '{saved.place}' is a run of {kind.__name__} but must be of "
                f"PromptSRC: change {KEY}",
            )
            then, now = saved.backbone_sha256, weights_sha256(name)
            need(
                then is None or now in (None, then),
                f"The teacher in '{saved.place}' was trained on the weights of {saved.backbone}, "
                f"but TEACHER_NAME is {name}: set {KEY}_NAME to its CLIP",
            )
        clip = load_clip(name)
        own, theirs = (sum(p.numel() for p in model.parameters()) for model in (clip_model, clip))
        of_clip = {"method": kind.__name__, "backbone": os.path.basename(name)}
        origin = saved.origin() | of_clip | {"larger": theirs > own}
        what = f"The teacher in '{saved.place}' does not fit its CLIP {name}, of TEACHER_NAME"
        return partial(build_earlier, saved, kind, settings, clip, what, origin, dataset)

    def _resize(self, width: int) -> None:
        self.VPT_image_trans = Projection(self.width, width).to(self.device)

    def take_classes(self, classnames):
        """Give the teacher the names of all classes."""
        if self._taught is not None:
            self.teacher = self._taught(classnames)

    def begin_stage(self, stage):
        """Refuse a training without a teacher; raises UserError."""
        self.teacher.need()

    def image_features(self, images, contexts):
        """Return n(f) of the prompted image features."""
        self.image_encoder.check(images)
        u = self.image_encoder(images, contexts.vision).raw[:, 0]  # type: ignore[index]
        with no_autocast(u.device.type):
            f = self.VPT_image_trans(u.float())
            return ImageFeatures(F.normalize(f, dim=-1)[:, None], None)

    def text_features(self, contexts):
        """Return h^T of the classes of the method."""
        return self.teacher.text(self._names)

    def loss(self, output, batch):
        """Return KD_WEIGHT kd, over all classes of the data set; no labels."""
        tau = self.settings.TEMPERATURE
        theirs = self.teacher.output(batch.images).logits / tau
        own = self.compare(output.image, self.teacher.text()) / tau
        kd = F.kl_div(own.log_softmax(-1), theirs.softmax(-1), reduction="sum") / own.numel()
        return {"loss": self.settings.KD_WEIGHT * tau**2 * kd, "kd": tau**2 * kd.detach()}

    # ------------------------------------------------------------------ checkpoints

    def public_state_dict(self):
        """Return what is learned and the running statistics."""
        norm = self.VPT_image_trans.conv1[1]
        return super().public_state_dict() | {NORM + name: getattr(norm, name) for name in RUNNING}

    def load_public_state_dict(self, state_dict):
        """Load what is learned and the running statistics, for a missing teacher of its width."""
        rest, last = dict(state_dict), state_dict.get("VPT_image_trans.conv1.3.bias")
        if self.teacher.method is None and torch.is_tensor(last) and last.dim() == 1 and len(last):
            self._resize(len(last))
        norm = self.VPT_image_trans.conv1[1]
        statistics = {name: rest.pop(NORM + name, None) for name in RUNNING}
        super().load_public_state_dict(rest)
        norm.load_state_dict(statistics, strict=False)


class Projection(nn.Module):
    """C2 ReLU(BN(C1 u)), from D to D_T; 1 x 1 convolutions, as in public checkpoints."""

    def __init__(self, D: int, D_T: int):
        super().__init__()
        C1, C2 = nn.Conv2d(D, D_T, 1), nn.Conv2d(D_T, D_T, 1)
        self.conv1 = nn.Sequential(C1, nn.BatchNorm2d(D_T), nn.ReLU(), C2)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Return f (B, D_T) of u (B, D)."""
        f: torch.Tensor = self.conv1(u[:, :, None, None])
        return f.flatten(1)


def _prompt_sizes(saved: Saved) -> dict[str, Any]:
    """Return the sizes of the prompts in a public checkpoint of PromptSRC, by their keys."""
    text, vision = (
        [x for name, x in saved.state_dict.items() if name.startswith(side) and "VPT" in name]
        for side in ("text_encoder.", "image_encoder.")
    )
    return {
        "N_CTX_TEXT": len(saved.state_dict["prompt_learner.ctx"]),
        "N_CTX_VISION": len(vision[0]),
        "PROMPT_DEPTH_TEXT": 1 + len(text),
        "PROMPT_DEPTH_VISION": len(vision),
    }
