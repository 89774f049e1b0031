"""Skip Tuning (Wu et al., CVPR 2025; arXiv:2412.11509).

Skip Tuning: Pre-trained Vision-Language Models are Effective and Efficient Adapters Themselves.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checkpoint.public import Public
from ..encoders.class_text import MEANS, class_text
from ..encoders.templates import SKIPTUNING, template_of
from ..encoders.upper_blocks import UpperImage, UpperText, with_upper_copies
from ..errors import need
from ..method import Batch, Method
from ..node import From1, Positive
from ..registry import register
from ..teacher import Teacher

FIRST = 1e4  # in place of the cosine of a label, so that its class comes first
END = 5.0  # of the exponential distribution, of which the last class is dropped


@register
class SkipTuning(Method):
    """The upper blocks of both encoders learn whole, without prompts, on some classes in each step.

    Blocks from START_LAYER on, the last LayerNorms and the projections are copies that learn; no
    gradient enters the blocks before (LSkip). A step compares images with some classes only
    (CSkip): with p_k CLIP's own text features and z_j the images' current ones,

        a_k = max_j z_j . p_k, or first if k is the label of an image in the batch

    Classes are ranked by a_k. The first t = min(ceil(TOP_RATIO K), MAX_TOP) are kept, and of the
    others the one of rank t + i if u_i < q_i, u uniform:

        q_i = (e(x_i) - e(x_last)) / (e(x_0) - e(x_last)),  e(x) = exp(-x / LAMBDA)

    x in equal steps from 0 to 5. L = CE over the kept classes. TOP_RATIO above 1 is a number of
    classes; 1 keeps all. u is drawn once for the whole training, as in the public code: ranks, not
    classes, are fixed. An image whose label is not kept counts as the first kept class.

    **Published.** Batches of 4 images, of one class from 4 shots on (RandomClassSampler); in
    base-to-new text learns at 2e-5 and images at 5e-6, in transfer at 1e-5 and 1e-6, in few-shot
    both at 1e-5; on ImageNet, SUN397 and Food101 a quarter of the epochs.

    **Differences.** The published numbers are of weights that are held in half precision, in which
    about 5% of the entries move at these rates (on a small CLIP; the loss after 60 steps is 1.53
    where float32 has 1.13). Here they are float32, so PREC fp16 is refused. DROP_RATIO is 0, as
    published. Public code keeps the image states before START_LAYER for an epoch; here only
    those of the text are kept, for the whole training, as augmentations of images change.

    **Checkpoint.** `text_encoder.{transformer.resblocks.{i}...,ln_final,text_projection}` and
    `image_encoder.{transformer.resblocks.{i}...,ln_post,proj}`. Public ones hold the frozen
    weights, too, which must be the CLIP's.
    """

    node = "SKIP"
    rules = MEANS
    public = Public(folder="learnable_params", ignored=("QUICK_BATCH_SIZE", "DROP_RATIO"))
    training_only = ("TOP_RATIO", "MAX_TOP", "LAMBDA")

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the public node."""

        PREC: str = "fp32"
        START_LAYER: int = 6
        TOP_RATIO: Positive = 0.5
        MAX_TOP: From1 = 50
        LAMBDA: Positive = 0.3

        def __post_init__(self) -> None:
            need(
                self.PREC != "fp16",
                "PREC is fp16, which holds the encoders in half precision, but SkipTuning learns "
                "them: set amp, bf16 or fp32",
            )

        def draw_ranks(self, K: int) -> torch.Tensor:
            """Return the ranks of the classes that a step keeps, of K."""
            top = math.ceil(min(self.TOP_RATIO * (K if self.TOP_RATIO <= 1 else 1), K))
            top = K if self.TOP_RATIO == 1 else min(top, self.MAX_TOP)
            x = torch.linspace(0, END, K - top, dtype=torch.float64)
            e = (-x / self.LAMBDA).exp()
            q = (e - e[-1:]) / (e[:1] - e[-1:])  # nan of a single one, which is dropped
            return (torch.rand(K) < torch.cat([torch.ones(top), q])).nonzero()[:, 0]

    settings: Settings
    text_encoder: UpperText
    ranks: torch.Tensor

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with copies of CLIP's upper blocks and one sentence for each class."""
        first = self.settings.START_LAYER
        own = with_upper_copies(clip_model, first)
        given = class_text(self.settings, classnames, dataset, [template_of(SKIPTUNING, dataset)])
        need(
            len(given.rows) == 1,
            "SkipTuning learns inside the text encoder, which computes the sentences anew in each "
            "step: give one for each class (DATASET.SENTENCES)",
        )
        self.teacher = Teacher(clip_model, classnames, given)
        text = UpperText(own, clip_model, given.tokens(own), first)
        text.class_text = given
        return text, UpperImage(own.visual)

    def build(self, clip_model, classnames, dataset):
        """Draw the ranks; a run that resumes draws the same, by its seed."""
        self.copies = {name for name, p in self.named_parameters() if p.requires_grad}
        with torch.device("cpu"):  # their number is read here, even if weights are on "meta"
            ranks = self.settings.draw_ranks(len(classnames))
        self.register_buffer("ranks", ranks, persistent=False)
        self.step: Batch | None = None

    def own_parameters(self):
        """Yield the copies, with their names."""
        return (pair for pair in self.named_parameters() if pair[0] in self.copies)

    def public_name(self, name):
        """Return a name such as `image_encoder.transformer.resblocks.6.ln_1.weight`."""
        return name.replace(".visual.", ".")

    def load_public_state_dict(self, state_dict):
        """Load the copies; raises UserError, too, if the file has learned what is frozen here."""
        own = self.public_parameters()
        for place, p in self.named_parameters():
            name = self.public_name(place)
            if name in own or not torch.is_tensor(theirs := state_dict.get(name)):
                continue
            need(
                theirs.shape == p.shape and torch.allclose(theirs.to(p), p, 1e-2, 1e-6),
                f"The checkpoint has another '{name}' than CLIP, where nothing learns here: set "
                "START_LAYER as in its training, or choose its CLIP",
            )
        super().load_public_state_dict(state_dict)

    def batch(self, images, labels, index=None):
        """Return a batch, and keep it: its labels choose the classes of the step."""
        self.step = super().batch(images, labels, index)
        return self.step

    @property
    def skips(self) -> bool:
        """True in a step that leaves classes out."""
        return self.training and torch.is_grad_enabled() and len(self.ranks) < self.num_classes

    def image_features(self, images, contexts):
        """Return the features, from which a step chooses its classes."""
        image = super().image_features(images, contexts)
        if self.skips:
            step = self.step if self.step is not None and self.step.images is images else None
            self.kept = self.choose(image.z[:, 0], None if step is None else step.labels)
        return image

    @torch.no_grad()
    def choose(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the numbers (k,) of the kept classes, rising, for images (B, D), labels (B,)."""
        cosines = z @ self.teacher.h.T
        if labels is not None:
            cosines.scatter_(1, labels[:, None], FIRST)
        order = cosines.amax(0).argsort(descending=True, stable=True)
        return order[self.ranks].sort().values

    def text_features(self, contexts):
        """Return the features of the classes of a step, else of all."""
        return self.text_encoder.some(self.kept) if self.skips else super().text_features(contexts)

    def logits(self, image, text):
        """Return s z . h; -inf for the classes that a step leaves out."""
        logits = super().logits(image, text)
        if len(text.h[0]) == self.num_classes:
            return logits
        left_out = logits.new_full((len(logits), self.num_classes), -math.inf)
        return left_out.index_copy(1, self.kept, logits)

    def loss(self, output, batch):
        """Return the cross-entropy over the kept classes."""
        logits, labels = output.logits, batch.labels
        left_out = logits.gather(1, labels[:, None])[:, 0].isneginf()
        first = (~logits.isneginf()).int().argmax(1)
        return F.cross_entropy(logits, torch.where(left_out, first, labels))
