"""TPT (Shu et al., NeurIPS 2022; arXiv:2209.07511).

Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models.

Letters: B images in V views, K classes, n tokens of a context, W the width of the text encoder.
"""

from dataclasses import dataclass, replace
from operator import attrgetter

import torch
import torch.nn.functional as F

from ..capabilities.at_test_time import AtTestTime
from ..checkpoint.public import Public
from ..encoders.sentences import OneTemplate
from ..encoders.text import TextFeatures
from ..encoders.vision import ImageFeatures
from ..errors import need
from ..full_precision import no_autocast
from ..marks import ONE_IMAGE
from ..method import Method, Output
from ..node import Fraction, From0, From1, NotNegative
from ..prompts import Contexts
from ..registry import register
from ..sure_views import marginal_entropy, surest
from .cocoop import CoCoOp, MetaNet
from .coop import CoOp

TEXTS = 1024  # texts that are encoded with gradients at a time, to bound the memory
GRAD_SCALE = 1024.0  # of the loss, against underflow in half precision


@register
class TPT(AtTestTime, CoOp):
    """CoOp's context, tuned anew for each test image: the surest of its views shall agree.

    CoOp's context c, without a label. Of V views (x_0 plain, the others random crops and flips)
    with features z_v, which carry no gradient, and logits l_v = s z_v . h(c):

        kept = the int(V SELECTION_P) views of least entropy H(softmax l_v)
        loss = H(mean over kept of softmax l_v)

    `kept` is fixed in the first of TTA_STEPS steps of AdamW (weight decay 0.01, new for each image)
    from c0; the prediction is s z_0 . h(c). c0 are words, random vectors or, by
    `MODEL.INIT_WEIGHTS`, a trained CoOp. With COCOOP, c0 = ctx + meta_net(f_0) of a trained CoCoOp,
    where f_0 is the feature before normalisation, as in the public code.

    BATCH_SIZE is V. On the ImageNet family the views are crops only, elsewhere AugMix (severity 1)
    mixes them. The views of an image depend on the seed and its place in the data set (in the
    command `predict`, on its pixels). Images are adapted several at a time, which changes nothing:
    each has its own context, and AdamW is elementwise. In half precision the loss is multiplied by
    1024, and an image whose gradient overflows takes no step; the public code skips it likewise.

    **Published.** CTX_INIT `a photo of a`.
    """

    node = "TPT"
    public = Public(folder="tpt")
    trains = False
    class_bound = False
    position = "end"
    takes = (ONE_IMAGE,)
    test_views = property(attrgetter("settings.BATCH_SIZE"))

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        N_CTX: int = 4
        CTX_INIT: OneTemplate = ""  # published: "a photo of a"
        COCOOP: bool = False
        LR: NotNegative = 5e-3
        SELECTION_P: Fraction = 0.1
        TTA_STEPS: From0 = 1
        BATCH_SIZE: From1 = 64

    settings: Settings  # type: ignore[assignment]

    @property
    def test_augmix(self):
        """True for the views of AugMix, on all data sets but ImageNet and its variants."""
        return not self.settings.dataset.startswith("ImageNet")

    def build(self, clip_model, classnames, dataset):
        """Make the context that every image starts from; with COCOOP, and the network."""
        super().build(clip_model, classnames, dataset)
        if self.settings.COCOOP:
            learner = self.prompt_generator = self.prompt_learner
            learner.meta_net = MetaNet(self.width, learner.ctx.shape[-1])
            del self.prompt_learner
            self.public = replace(self.public, submodule="prompt_generator")
        self._random = self.settings.COCOOP

    def load_public_state_dict(self, state_dict):
        """Load the context, and with COCOOP the network, from a checkpoint."""
        super().load_public_state_dict(state_dict)
        self._random = False

    def contexts(self):
        """Return the context before adaptation; with COCOOP none, as it depends on the image."""
        return Contexts() if self.settings.COCOOP else super().contexts()

    def initial(self, features: torch.Tensor) -> torch.Tensor:
        """Return c0 (B, n, W) for CLIP's features (B, D) of plain images, not normalised."""
        learner = getattr(self, self.public.submodule)
        c0 = learner.ctx.expand(len(features), -1, -1)
        return c0 + learner.meta_net(features)[:, None] if self.settings.COCOOP else c0

    uncertainty = staticmethod(marginal_entropy)

    def entropies(
        self, z: torch.Tensor, h: torch.Tensor, kept: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the `uncertainty` (B,) of the kept views, and their numbers.

        Args:
            z: (B, V, D), features of the views.
            h: (B, K, D), features of the classes with each image's context.
            kept: the views; None takes the surest ones.
        """
        with no_autocast(z.device.type):
            logits = self.logit_scale * torch.einsum("bvd,bkd->bvk", z, h.float())
            kept = surest(logits, self.settings.SELECTION_P) if kept is None else kept
            return self.uncertainty(logits.take_along_dim(kept[..., None], 1)), kept

    @property
    def updates(self) -> int:
        """The number of steps of the optimiser for an image."""
        return self.settings.TTA_STEPS

    def objective(
        self, z: torch.Tensor, c: torch.Tensor, kept: torch.Tensor | None, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a step, from 0, descends for each image, (B,), and the kept views.

        Args:
            z: (B, V, D), features of the views.
            c: (B, n, W), contexts.
            kept: the views; None in the first step.
        """
        return self.entropies(z, self.text_encoder([c]).h, kept)

    def adapt_contexts(self, z: torch.Tensor, c0: torch.Tensor) -> torch.Tensor:
        """Return the contexts (B, n, W) after the steps, for features z (B, V, D) of the views."""
        kept = None
        with torch.inference_mode(False), torch.enable_grad():
            z, c = z.clone(), c0.detach().clone().requires_grad_()
            optimizer = torch.optim.AdamW([c], self.settings.LR, weight_decay=0.01)
            for step in range(self.updates):
                loss, kept = self.objective(z, c, kept, step)
                (gradient,) = torch.autograd.grad(GRAD_SCALE * loss.sum(), c)
                fits = gradient.isfinite().all(dim=(1, 2), keepdim=True)  # else no step
                c.grad, before = torch.where(fits, gradient / GRAD_SCALE, 0), c.detach().clone()
                optimizer.step()
                c.data = torch.where(fits, c.data, before)
        return c.detach()

    def classify(self, features: torch.Tensor, c: torch.Tensor) -> Output:
        """Return the output for features (B, D) of plain images and their contexts (B, n, W)."""
        texts = [self.text_encoder([some]) for some in c.split(self.at_once)]
        h, raw = (torch.cat([getattr(text, name) for text in texts]) for name in ("h", "raw"))
        image = ImageFeatures(F.normalize(features, dim=-1)[:, None], None)
        text = TextFeatures(h, raw)
        return Output(self.compare(image, text), image, text)

    logits = CoCoOp.logits

    @property
    def at_once(self) -> int:
        """The number of images whose texts are encoded at a time."""
        return max(1, TEXTS // self.num_classes)

    def output(self, images):
        """Return the output before adaptation."""
        features = self.clip_features(images)
        return self.classify(features, self.initial(features))

    @torch.no_grad()
    def predict(self, images):
        """Return the output for the plain views, with the contexts after adaptation."""
        need(
            not self._random,
            "TPT with COCOOP True starts from a trained CoCoOp, and its network is random: set "
            "MODEL.INIT_WEIGHTS to a checkpoint of CoCoOp",
        )
        views = [images] if torch.is_tensor(images) else images
        features = torch.stack([self.clip_features(view) for view in views], 1)
        z, c0 = F.normalize(features, dim=-1), self.initial(features[:, 0])
        pairs = zip(z.split(self.at_once), c0.split(self.at_once), strict=True)
        return self.answer(features, torch.cat([self.adapt_contexts(*pair) for pair in pairs]))

    def answer(self, features: torch.Tensor, c: torch.Tensor) -> Output:
        """Return the output for features (B, V, D) of the views, with contexts (B, n, W)."""
        return self.classify(features[:, 0], c)

    def loss(self, output, batch):
        """Return the mean over images of the entropy that the first step descends; no labels."""
        z = torch.stack([self.clip_features(view) for view in batch.views], 1)
        return self.entropies(F.normalize(z, dim=-1), output.text.h)[0].mean()
