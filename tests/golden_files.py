"""The golden files: numbers of the published methods, and how to build a method from one."""

import json
from typing import Any, NamedTuple

import torch
from paths import GOLDEN
from safetensors import safe_open

from trainers.prompting import Method, build_method, load_clip
from trainers.prompting.capabilities.at_test_time import reset
from trainers.prompting.encoders.descriptions import Asked
from trainers.prompting.method import METHODS

# of all images together, of sentences, of no method, of pixels, and of products: test_transclip.py,
# test_descriptions.py, test_calibration.py, test_robustness.py, test_skiptuning.py, test_awt.py,
# test_wise.py
OTHERS = (
    "tiny_clip_seed0", "transclip", "stata_batches_streams", "descriptions_three_rules",
    "conformal_scores", "attack_coop_eps4", "attack_maple_eps4", "attack_zeroshot_eps4",
    "apt_three_forms", "ttc_eps4", "rtpt_words", "skiptuning_start2", "awt", "wiseft",
)  # fmt: skip
FILES = sorted(p for p in GOLDEN.glob("*.safetensors") if p.stem not in OTHERS)
OF_SEVERAL = {  # files of several labels: the method, and keys in place of the public code's
    "ml_dualcoop": ("DualCoOp", {"N_CTX": 4, "LOSS_W": 0.03}),
    "ml_dualcoop_dassl": ("DualCoOp", {"N_CTX": 4, "FORM": "dassl"}),
    "ml_taidpt": ("TaIDPT", {"N_CTX": 4}),
    "ml_ram": (
        "RAM",
        {"DEPTH_VISION": [3], "VISION_ADAPT": 2, "DEPTH_TEXT": [2, 3], "TEXT_CTX": 2},
    ),
}
AT_TEST_TIME = (  # no labels
    "boostadapter_two_forms", "ctpt", "dpe_three_forms", "mta", "otpt_lambda18", "tda", "tda_views",
    "tps", "tpt", "tpt_cocoop", "zero",
)  # fmt: skip
ON_SUPPORT = ("lpplusplus", "gda_closed_form", "crossmodal_linear")  # no steps on batches of images
JSON = (
    "classnames", "config", "sentences", "extra", "templates", "new_classnames", "mixed_classnames"
)  # fmt: skip


class Golden(NamedTuple):
    meta: dict
    tensors: dict

    def part(self, prefix: str) -> dict:
        """Return the tensors under a prefix, named without it."""
        found = {k: v for k, v in self.tensors.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): v for k, v in found.items()}

    @property
    def params(self) -> dict:
        buffers = self.part("buffer/").items()
        return self.part("param/") | {k: v for k, v in buffers if not k.endswith("_tracked")}

    @property
    def support(self) -> dict | None:
        """Training images, in several passes, and labels, if the method takes a support."""
        found = self.part("cache/") or self.part("support/")
        if not found:
            return None
        passes = found.get("features", found["label"]).dim() == 3  # as they are, of all images
        return {"images": found["features" if passes else "image"], "labels": found["label"]}

    @property
    def views(self) -> list[torch.Tensor]:
        return [self.tensors[name] for name in ("image", "image2") if name in self.tensors]

    @property
    def test_images(self) -> torch.Tensor | list[torch.Tensor]:
        """The last images that `predict` gets: plain, or several views of each.

        Views are stored, or as flips from left to right and rolls by rows and columns.
        """
        if "views/flip" in self.tensors:  # (V,), or (B, V)
            x, shift = self.tensors["image"].float(), self.tensors["views/shift"]
            flip = self.tensors["views/flip"].expand(len(x), -1)
            shift = shift.expand(len(x), -1, -1)
            each = [
                [torch.roll(x[b].flip(-1) if flip[b, v] else x[b], shift[b, v].tolist(), (-2, -1))
                 for b in range(len(x))]
                for v in range(flip.shape[1])
            ]  # fmt: skip
            return [torch.stack(view) for view in each]
        views = self.tensors.get("image_views", self.tensors.get("stream/image_views"))
        return self.tensors["image"] if views is None else list(views.float().unbind(1))


def read(path) -> Golden:
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    meta = {k: json.loads(v) if k in JSON else v for k, v in meta.items()}
    named = {"APT": "CoOp", "TCPT": "CoOp", "MultiModalAdapterPP": "MMAPP"}  # two train CoOp
    if meta["method"] == "TCPT":
        meta["config"]["CALIBRATE"] = True
        tensors["loss/own"] = tensors.pop("loss/ce")
    meta["method"] = named.get(meta["method"], meta["method"])
    if meta["method"] == "LinearProbe":  # its steps are CLAP's; the rest: test_linear_probes.py
        meta["method"] = "CLAP"
        tensors["logits_eval"] = tensors["logits"]
        meta["config"] = {key: meta["config"][key] for key in ("INIT", "CONSTRAINT", "PREC")}
    if meta["method"] == "CrossModal":
        tensors["logits"] = tensors["logits_eval"]
    if meta["method"] == "ALIGN":
        del meta["config"]["FORM"]  # the paper's; the released one is MMP
    if meta["method"] == "MMRLpp":  # its terms are without their weights
        alpha, weight = (meta["config"][key] for key in ("ALPHA", "REG_WEIGHT"))
        weights = {"ce": alpha, "ce_rep": 1 - alpha, "reg_image": weight, "reg_text": weight}
        tensors |= {f"loss/{name}": w * tensors[f"loss/{name}"] for name, w in weights.items()}
    return Golden(meta, tensors)


def node_of(golden: Golden, **more) -> dict:
    """Return the node of a file, with the changes in `more`."""
    meta = golden.meta
    known = METHODS[meta["method"]].defaults
    node = {key.upper(): value for key, value in meta["config"].items()}  # some are argparse's
    if meta["method"] in ("GalLoP", "SOTGLP"):  # only some of its arguments are keys
        node = {key: node[key] for key in known if key in node} | {"GLOBAL_DROPOUT_P": 0.0}
    if "SCALE" in known and "logit_scale" in meta["extra"]:  # a constant of the public code
        node["SCALE"] = meta["extra"]["logit_scale"]
    if meta["method"].startswith("TipAdapter"):
        node["SCALE"] = 100.0  # a constant of the public code
    if meta["method"] == "GDA":  # which the public code searches
        node["ALPHA"] = float(golden.tensors["alpha"])
    if meta["method"] == "CrossModal":
        outside = json.loads(meta["config_outside_node"]).items()
        node |= {key.rpartition(".")[2].upper(): x for key, x in outside if "partial" not in key}
    if meta["method"] in ("DPE", "HiCroPL"):
        node["SENTENCES"] = meta["sentences"]
    if meta["method"] == "TPS":
        texts = meta["templates"]
        about = texts["descriptors"].items()
        node["SENTENCES"] = {name: [f"{name}, {text}" for text in own] for name, own in about}
        node["TEMPLATES"] = texts["templates"]
    if "DROPOUT_RATE" in node:
        node["DROPOUT_RATE"] = meta["extra"]["dropout_in_this_file"]
    return node | more


def teacher(golden: Golden, folder) -> dict:
    """Write the teacher of a file as a public checkpoint, and return the keys that name it."""
    path = folder / "teacher.pth.tar"
    torch.save({"state_dict": golden.part("teacher/param/")}, path)
    tiny = GOLDEN / "tiny_clip_seed0.safetensors"
    return {"TEACHER": str(path), "TEACHER_NAME": str(tiny)}


def fix_draws(method: Method, sentence: torch.Tensor, u: torch.Tensor) -> None:
    """Let steps of MMAPP read the sentences of these numbers (K,), at u times its scale."""
    encoder = method.text_encoder
    row = [own[i] for own, i in zip(encoder.lists, sentence.tolist(), strict=True)]
    encoder.draw = lambda: encoder.read(row)
    method.draw_scale = lambda: float(u) * method.settings.ADAPTER_TRAIN_SCALE


def build(golden: Golden, clip_model, folder, **more) -> Method:
    meta, node = golden.meta, node_of(golden, **more)
    if meta["method"] == "ALIGN":  # the golden plans are converged
        node |= {"SINKHORN_TOL": 1e-7, "SINKHORN_MAX_ITER": 2000}
    if meta["method"] == "PromptSRC":
        node["MAX_EPOCH"] = meta["extra"]["epochs"]
    if "sentence_index" in meta.get("extra", {}):  # only the sentences that the file's step drew
        index = meta["extra"]["sentence_index"]
        sentences = folder / "sentences.json"
        drawn = {name: [given[index]] for name, given in meta["sentences"].items()}
        sentences.write_text(json.dumps(drawn))
        node["SENTENCES"] = str(sentences)
    if golden.part("teacher/param/"):
        node |= teacher(golden, folder)
    place = clip_model, meta["classnames"], meta.get("dataset", "")
    about = Asked(meta["sentences"]) if meta["method"] == "MMAPP" else None
    method = build_method(meta["method"], node, *place, golden.support, about)
    if about:
        fix_draws(method, golden.tensors["sentence"], golden.tensors["u"])
    method.load_public_state_dict(golden.params)
    if meta["method"] == "TextRefiner":
        method.memory.cache = golden.tensors["cache"].clone()
    return method


def build_several(name: str, **more) -> tuple[Golden, Method, Any]:
    """Return a file of several labels, with labels as int8, its method, and the CLIP of both."""
    golden = read(GOLDEN / "labels" / f"{name}.safetensors")
    golden.tensors["label"] = golden.tensors["label"].to(torch.int8)
    clip = golden.meta.get("clip", "ml_tiny_rn_seed0.safetensors")
    clip_model = load_clip(str(next(GOLDEN.rglob(clip))))
    kind, node = OF_SEVERAL[name]
    node = node | {"PREC": "fp32"} | more
    method = build_method(kind, node, clip_model, golden.meta["classnames"], several=True)
    method.load_public_state_dict(golden.part("param/"))
    buffers = dict(method.named_buffers())
    for place, value in golden.part("buffer/").items():
        buffers[own_name(place)].copy_(value)
    return golden, method, clip_model


def own_name(place: str) -> str:
    """Return the name of a buffer of RAM's adapters, of which the public code has another one."""
    block, _, rest = place.partition("resblocks.")[2].partition(".conv_adapter.")
    return f"adapters.{block}.{rest}"


def near(found: torch.Tensor, expected: torch.Tensor, limit: float = 1e-4) -> bool:
    """Say if two tensors differ by less than the limit, which grows with numbers above 10.

    A float32 has seven digits: 1e-4 of a loss of 233 is less than processors differ by.
    """
    return bool((found - expected).abs().max() < limit * max(1, expected.abs().max() / 10))


@torch.no_grad()
def predicted(method: Method, golden: Golden) -> torch.Tensor:
    """Return the logits of an evaluation, after the stream that a file may begin with."""
    reset(method.eval())
    device = method.logit_scale.device
    for images in golden.tensors.get("stream/image", torch.empty(0)).to(device).split(7):
        if len(images):
            method.predict(images)
    views = golden.test_images
    one = torch.is_tensor(views)
    return method.predict(views.to(device) if one else [x.to(device) for x in views]).logits


def awt(golden: Golden, clip_model, kind="AWT", classes="classnames", **node) -> Method:
    """Return AWT with the sentences of its file, which begin with the template."""
    about = {
        name: [text.removeprefix(own[0] + " ") for text in own[1:]]
        for name, own in golden.meta["sentences"].items()
    }
    node |= {"CTX_INIT": "a satellite photo of", "SENTENCES": about}
    return build_method(kind, node, clip_model, golden.meta[classes], golden.meta["dataset"])


def awt_few_shot(golden: Golden, clip_model, classes="classnames") -> Method:
    """Return the trained form with the file's adapters, whose steps draw the file's sentences."""
    config = golden.meta["config"]
    node = {"DOWN_RATE": config["Down_Rate"], "DESC_PER_BATCH": config["Desc_Per_Batch"]}
    method = awt(golden, clip_model, "AWTFewShot", classes, **node)
    method.load_public_state_dict(golden.params)
    method.views, encoder = 3, method.text_encoder
    encoder.drawn = [0, *(golden.tensors["sentence"] + 1).tolist()]
    encoder.draw = lambda: encoder.read(*([own[i] for own in encoder.lists] for i in encoder.drawn))
    return method


def awt_views(golden: Golden) -> list[torch.Tensor]:
    """Return the views of its step."""
    x, flip, shift = golden.tensors["image"], *golden.part("train/views/").values()
    turned = [x.flip(-1) if f else x for f in flip]
    return [torch.roll(y, s.tolist(), (-2, -1)) for y, s in zip(turned, shift, strict=True)]
