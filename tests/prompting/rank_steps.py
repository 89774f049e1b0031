"""Two steps and an evaluation of every method, for test_ranks.py, in one process or under torchrun.

`torchrun --nproc_per_node W rank_steps.py FILE` writes the results of the first rank.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from models import support_of

from trainers.prompting import Method, PromptSpec, build_method, load_clip
from trainers.prompting.method import METHODS
from trainers.prompting.model.parts import Parts
from trainers.prompting.running import ranks
from trainers.prompting.running.precision import Precision
from trainers.prompting.scores import SCORES, register_score
from trainers.prompting.step import training_step
from trainers.prompting.trainer.config import read_node

ROOT = Path(__file__).parents[2]
NAMES = ["forest", "sea or lake", "annual crop land", "road", "river bank"]
B = 7  # like the number of names, not divisible by 2 or 3


if "test of the whole batch" not in SCORES:  # pytest imports this file again

    @register_score("test of the whole batch")
    def of_the_whole_batch(spec, image, text, chunk_bytes):
        """A score in which images depend on each other."""
        z = image.z[:, 0] - 0.1 * image.z[:, 0].mean(0)
        return z @ text.h[0].T


class Own(Method):
    """A user's method, with parts, a score and a loss that are written without ranks in mind."""

    node = "OWN"
    defaults = {"PREC": "fp32"}

    @staticmethod
    def point(node):
        score = "test of the whole batch"
        some = {"text_length": 2, "vision_length": 2, "text_depth": 2, "vision_depth": 2}
        return PromptSpec(M=1, N=1, beta=0, score=score, templates=("X X",), **some)

    def setup(self, clip_model, classnames, dataset):
        class Shift(Parts):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(
                    torch.full((clip_model.text_projection.shape[1],), 0.1)
                )

            def image(self, features):
                return features._replace(z=F.normalize(features.z + self.weight, dim=-1))

            def text(self, features):
                return features._replace(h=F.normalize(features.h - self.weight, dim=-1))

            def logits(self, logits, image, text, scale):
                return logits - image.z[:, 0] @ (self.weight * text.raw[0]).T

        self.model.parts = Shift()
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, output, batch):
        self.seen += batch.images.mean()
        size = sum((p**2).sum() for p in self.model.trained().parameters())
        spread = output.image.z[:, 0].std(0).sum() + output.text.h[0].std(0).sum()
        return {"ce": F.cross_entropy(output.logits, batch.labels), "size": size, "spread": spread}


OWN = "a user's own"
# Settings other than the defaults, by a separate name.
MORE = {
    "ALIGN released": ("ALIGN", {"FORM": "released"}),
    "ALIGN with terms": ("ALIGN", {"REGULARIZERS": ["kg", "scl_text", "scl_image", "scl_logits"]}),
    "ALIGN without a solver": ("ALIGN", {"PLAN": "uniform"}),
    "CoOp with a context for each class": ("CoOp", {"CSC": True}),
    "CoOp, names in the middle": ("CoOp", {"CLASS_TOKEN_POSITION": "middle"}),
}


def settings(name: str) -> dict:
    """Return settings of a method that fit a CLIP with four blocks, for whichever keys it has."""
    node = {}
    for key in METHODS[name].defaults:
        if "DEPTH" in key or key in ("INSERT_BLOCK", "ADAPTER_START"):
            node[key] = 2
        elif key == "ADAPTER_END":
            node[key] = 3
        elif key == "DROPOUT_RATE":  # each rank draws other masks
            node[key] = 0.0
        elif key == "REP_LAYERS":
            node[key] = [2, 3]
        elif key == "SENTENCES":
            node[key] = {"*": ["a photo of a {}.", "a {} from above."]}
        elif key in ("M", "N") or key.endswith("PROMPT_NUMBER"):
            node[key] = 2
        elif key == "GPA_MEAN":
            node[key] = 1
    return node


def steps(method: Method) -> dict[str, torch.Tensor]:
    """Return the results of two steps, and the logits of an evaluation after them."""
    torch.manual_seed(1)
    images, labels = torch.randn(2, B, 3, 32, 32), torch.arange(B) % len(NAMES)
    found = {}
    method.train()
    trained = dict(method.model.trained().named_parameters())
    if trained:
        optimizer = torch.optim.SGD(trained.values(), lr=0.1)
        precision = Precision("fp32", torch.device("cpu"))
        for step in range(2):
            batch = method.batch(list(images), labels)
            output, terms = training_step(method, batch, optimizer, precision)
            found |= {f"{step} {name}": term.detach() for name, term in terms.items()}
            found |= {f"{step} gradient of {n}": p.grad.clone() for n, p in trained.items()}
            found[f"{step} logits"] = output.logits.detach()
        method.after_epoch(1, 2)
    found |= {f"state {name}": value.clone() for name, value in method.own_state().items()}
    method.eval()
    found["evaluation"] = method.model(images[0])
    found["few"] = method.model(images[0, :1])  # fewer images than ranks
    return found


def all_steps() -> dict[str, dict[str, torch.Tensor]]:
    clip = str(ROOT / "tests" / "golden" / "tiny_clip_seed0.safetensors")
    ours = [name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.")]
    points = {name: (name, {}) for name in ours} | MORE  # without plug-ins that tests have loaded
    found = {}
    for title in [*points, OWN]:
        torch.manual_seed(0)
        if title == OWN:
            method = Own(read_node(Own, {}), load_clip(clip), NAMES)
        else:
            name, node = points[title]
            node = settings(name) | node
            support = support_of(name, NAMES)
            method = build_method(name, node, load_clip(clip), NAMES, support=support)
        found[title] = steps(method)
    return found


if __name__ == "__main__":
    with ranks.joined():
        found = all_steps()
        if ranks.is_first():
            torch.save(found, sys.argv[1])
