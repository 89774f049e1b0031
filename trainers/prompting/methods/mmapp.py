"""MMA++ (Yang et al., T-PAMI 2026; doi:10.1109/TPAMI.2026.3691448).

MMA++: Effective Multi-Modal Adaptation for Vision-Language Models.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ..checkpoint.public import Public
from ..encoders.class_text import RULES, class_text
from ..encoders.drawn import DrawnSentences
from ..encoders.templates import CLIP
from ..encoders.vision import ImageEncoder
from ..errors import need
from ..marks import FILE
from ..method import Method
from ..node import Fraction, From0, From1, NotNegative, Positive
from ..registry import register
from ..regularizers import apart
from .mma import Adapters, MultiModalAdapter


@register
class MMAPP(MultiModalAdapter):
    """MMA's adapters with dropout, kept alike over their scale a, which is smaller in a test.

    The bypasses are those of [MultiModalAdapter](#multimodaladapter), with a dropout of rate
    ADAPTER_DROP after S_j:

        out = x' + MLP(LN2 x') + a U_j(drop(ReLU(S_j(ReLU(D_j(LN1 x))))))

    A step draws one sentence of each class, and computes z, h with a = ADAPTER_TRAIN_SCALE and,
    without gradient, z', h' of the same with a = u ADAPTER_TRAIN_SCALE, u ~ U(0, 1) for both sides:

        L = CE(s z.h) - R mean_k cos(h_k, h'_k) - R mean_j cos(z_j, z'_j)

    R is ADAPTER_TRAIN_SCALE_REG. An evaluation has a = ADAPTER_TEST_SCALE, and h_k is the direction
    of the mean of the normalised features of all sentences. These are DATASET.SENTENCES; without,
    INPUT_PROMPTS `hc` takes CLIP's 80 templates, and `cupl` is refused: it stands for a file of
    CuPL's sentences. No gradient is divided by a, unlike MMA's. Biases start as of nn.Linear.

    **Published.** `cupl`, SGD, rate 0.2, 50 epochs, no warm-up, batch 16, amp; with `hc` rate 0.3
    and dropout 0.2 (`base2new_hc`); in transfer 15 epochs, R 1, test scale 0.005.

    **Checkpoint.** Names of MultiModalAdapter.

    **Differences.** In the public code a test leaves its scale behind, so that steps after one in
    the middle of a training have it; here they have their own. There each class needs the same
    number of sentences. Dropout draws one mask for positions that the classes' sentences share.
    """

    node = "MMADAPTERPP"
    public = Public(ignored=("TEXT_CTX_INIT",))
    rules = RULES[:1]
    training_only = ("ADAPTER_TRAIN_SCALE", "ADAPTER_TRAIN_SCALE_REG", "ADAPTER_DROP")
    backward = Method.backward

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The keys of the node."""

        INPUT_PROMPTS: Literal["hc", "cupl"] = "hc"
        ADAPTER_START: From0 = 5
        ADAPTER_END: From0 = 12
        ADAPTER_DIM: From1 = 32
        ADAPTER_TRAIN_SCALE: Positive = 0.01
        ADAPTER_TRAIN_SCALE_REG: NotNegative = 2.5
        ADAPTER_TEST_SCALE: Positive = 0.0065
        ADAPTER_DROP: Fraction = 0.1

    settings: Settings  # type: ignore[assignment]
    text_encoder: DrawnSentences

    @property
    def takes(self):
        """The mark of sentences from a file, which INPUT_PROMPTS `cupl` asks for."""
        return (FILE,) if self.settings.INPUT_PROMPTS == "cupl" else ()

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with all sentences of each class."""
        need(
            self.settings.sentences is not None or self.settings.INPUT_PROMPTS == "hc",
            "INPUT_PROMPTS is cupl but there are no sentences: set DATASET.SENTENCES to a JSON "
            "file of CuPL's, or INPUT_PROMPTS hc, for CLIP's 80 templates",
        )
        text = class_text(self.settings, classnames, dataset, CLIP)
        return DrawnSentences(clip_model, text), ImageEncoder(clip_model.visual)

    def make_adapters(self, places, widths):
        """Return the adapters, whose biases start as those of nn.Linear do."""
        s = self.settings
        return Adapters(places, widths, s.ADAPTER_DIM, s.ADAPTER_TRAIN_SCALE, s.ADAPTER_DROP)

    def train(self, mode=True):
        """Set the mode, and the scale of the adapters in it."""
        s = self.settings
        self.adapter_learner.set_scale(s.ADAPTER_TRAIN_SCALE if mode else s.ADAPTER_TEST_SCALE)
        return super().train(mode)

    def text_features(self, contexts):
        """Return the features of the sentences that are drawn here or, in a test, of all."""
        if self.training:
            self.text_encoder.draw()
        return super().text_features(contexts)

    def draw_scale(self) -> float:
        """Return u ADAPTER_TRAIN_SCALE, the scale of a second pass."""
        return float(torch.rand((), device="cpu")) * self.settings.ADAPTER_TRAIN_SCALE

    def loss(self, output, batch):
        """Return the cross-entropy, and minus the cosines with the features of another scale."""
        s, adapters = self.settings, self.adapter_learner
        adapters.set_scale(self.draw_scale())
        with torch.no_grad():
            text = self.text_encoder(added=self.blocks("text"))
            image = self.image_encoder(batch.images, None, self.blocks("image"))
        adapters.set_scale(s.ADAPTER_TRAIN_SCALE)
        pairs = {"reg_text": (output.text.h, text.h), "reg_image": (output.image.z, image.z)}
        terms = {
            name: s.ADAPTER_TRAIN_SCALE_REG * (apart(x, other.float()) - 1)
            for name, (x, other) in pairs.items()
        }
        return {"ce": F.cross_entropy(output.logits, batch.labels)} | terms
