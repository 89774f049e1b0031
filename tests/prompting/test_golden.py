"""Parity with the published methods: logits, every loss term and gradient of each golden file.

The file is long because many files pin down something that only their method has.
"""

import pytest
import torch
from golden_files import (
    AT_TEST_TIME,
    FILES,
    ON_SUPPORT,
    Golden,
    build,
    near,
    node_of,
    predicted,
    read,
)
from paths import GOLDEN

from trainers.prompting import Method, build_method, load_clip
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.encoders import templates
from trainers.prompting.method import METHODS
from trainers.prompting.trainer.detection import scores

NEWER = ("coprompt", "hicropl", "kgcoop", "mmrl", "mmrlpp", "prograd", "promptsrc", "tcp")
RANDOM = ("adapter.", "alpha_vec", "cache", "classifier", "head.", "prompt_learner.ctx_vision")
RANDOM_OF = {
    "SOTGLP": ("local_prompts",), "MMRLpp": ("image_encoder.", "representation_learner."),
}  # fmt: skip


def check_step(method: Method, golden: Golden, block: str = "") -> None:
    """Check logits, terms, total and gradients of a step, and which parameters have a gradient.

    Args:
        block: prefix of the expected tensors' names, such as `full/`.
    """
    tensors = golden.tensors
    label = tensors.get(block + "label", tensors["label"])
    logits = tensors.get(block + "logits", tensors["logits"])
    method.train().zero_grad()
    batch = method.batch(golden.views, label)
    output = method.output(batch.images)
    assert near(output.logits, logits)
    terms = method.terms(output, batch)
    expected = {"loss": tensors[block + "loss"], **golden.part(block + "loss/")}
    if set(expected) == {"loss", "ce"}:
        assert terms.setdefault("ce", terms["loss"]) == terms["loss"]
    if len(expected) > 1:
        assert set(terms) == set(expected)
    for name, value in expected.items():
        assert near(terms[name], value), name

    own, grads = method.public_parameters(), golden.part(block + "grad/")
    zero = golden.part(block + "grad_zero/")
    assert {*grads, *zero} == {n for n, p in own.items() if p.requires_grad}
    if grads:
        method.backward(terms)
    for name, value in grads.items():
        error = (own[name].grad.reshape(value.shape) - value).norm()
        assert error < 1e-3 * value.norm() + 1e-7, f"{name}: {error / value.norm():.2e}"
    for name in zero:  # but for rounding
        assert own[name].grad.norm() < 1e-3 * max(value.norm() for value in grads.values()), name


def check_frozen(method: Method, golden: Golden, block: str = "") -> None:
    frozen = golden.part(block + "frozen/")
    teacher = method.teacher
    z = teacher.z(golden.views[-1])
    own = {"text_features": teacher.h, "image_features": z, "logits": teacher.logits(z)}
    if "SCALE" in method.defaults:
        own["logits"] *= method.logit_scale / method.teacher.clip_model.logit_scale.exp()
    for name, value in frozen.items():
        assert near(own[name], value, 1e-4 if name == "logits" else 1e-5), name


def check_evaluation(method: Method, golden: Golden) -> None:
    """Check the logits of an evaluation, again from kept text features."""
    calls = []
    hook = method.text_encoder.register_forward_hook(lambda *args: calls.append(1))
    first, second = predicted(method, golden), predicted(method, golden)
    hook.remove()
    assert near(first, golden.tensors.get("logits_eval", golden.tensors["logits"]))
    assert torch.equal(first, second)
    if golden.meta["method"] not in ("CTPT", "CoCoOp", "OTPT", "TPT"):  # a text for each image
        assert len(calls) <= 1  # some methods have features in place of texts


def check_words(golden: Golden, clip_model) -> None:
    """Check where contexts that start from words do; a file has `init/` if some do."""
    meta = golden.meta
    random = RANDOM + RANDOM_OF.get(meta["method"], ())
    words = {k: v for k, v in golden.part("init/").items() if not k.startswith(random)}
    if words and meta["config"].get("CTX_INIT") != "":
        node = node_of(golden) | ({"MAX_EPOCH": 20} if meta["method"] == "PromptSRC" else {})
        method = build_method(meta["method"], node, clip_model, meta["classnames"], meta["dataset"])
        own = method.public_state_dict()
        assert all(torch.equal(own[name], value) for name, value in words.items())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file(tiny_clip, tmp_path, file):
    """Public names and shapes, an evaluation, frozen features, a step, and where words start."""
    golden = read(file)
    method, params = build(golden, tiny_clip, tmp_path), golden.params
    state = method.public_state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in params.items()}
    assert all(torch.equal(state[k], v) for k, v in params.items())
    check_evaluation(method, golden)
    if file.stem in NEWER:
        assert golden.part("frozen/")
        check_frozen(method, golden)
    if file.stem not in AT_TEST_TIME + ON_SUPPORT:
        check_step(method, golden)
    check_words(golden, tiny_clip)


@pytest.mark.parametrize("name", ["cliplora", "mmrl", "mmrlpp"])
def test_the_clips_own_scale(tiny_clip, tmp_path, name):
    golden = read(GOLDEN / f"{name}.safetensors")
    check_step(build(golden, tiny_clip, tmp_path, SCALE=0.0), golden, "clip_scale/")


@pytest.mark.parametrize("name", ["gallop", "sotglp"])
def test_global_prompts_are_dropped_in_the_loss(tiny_clip, tmp_path, monkeypatch, name):
    golden = read(GOLDEN / f"{name}.safetensors")
    method = build(golden, tiny_clip, tmp_path, GLOBAL_DROPOUT_P=0.75)
    drawn = golden.tensors["dropout/index"]
    monkeypatch.setattr(torch, "randint", lambda high, size, device: drawn.reshape(size))
    check_step(method, golden, "dropout/")


def check_other_classes(golden, name: str, expected: str, clip_model, dataset="") -> Method:
    """Check the logits for the class names in the metadata of a file, from a checkpoint."""
    names = golden.meta[name]
    method = build_method(golden.meta["method"], node_of(golden), clip_model, names, dataset)
    checkpoint = {"state_dict": golden.params, "classnames": golden.meta["classnames"]}
    method.load_checkpoint(Saved.of(checkpoint), names)
    with torch.no_grad():
        logits = method.eval()(golden.tensors["image"])
    assert near(logits, golden.tensors[expected])
    return method


@pytest.mark.parametrize("file", ["ln_only", "twosfs_stage1", "twosfs_stage2"])
def test_layer_norms_with_other_classes(tiny_clip, file):
    golden = read(GOLDEN / f"{file}.safetensors")
    check_other_classes(golden, "new_classnames", "logits_eval_new", tiny_clip)
    if file == "twosfs_stage2":  # the classifier for the classes that it knows
        check_other_classes(golden, "mixed_classnames", "logits_eval_mixed", tiny_clip)


def test_layer_norms_at_the_ends_of_the_encoders(tiny_clip, tmp_path):
    golden = read(GOLDEN / "ln_only.safetensors")
    ends = golden.part("end_norms/param/")
    golden = golden._replace(
        tensors=golden.tensors | {f"param/{name}": value for name, value in ends.items()}
    )
    check_step(build(golden, tiny_clip, tmp_path, LN_ENDS=True), golden, "end_norms/")


@pytest.mark.parametrize("file", ["ln_only", "twosfs_stage1", "twosfs_stage2"])
def test_steps_of_adamw(tiny_clip, tmp_path, file):
    golden = read(GOLDEN / f"{file}.safetensors")
    method = build(golden, tiny_clip, tmp_path).train()
    learned = [p for p in method.learned().values() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, weight_decay=golden.meta["config"]["WD"])
    for lr in golden.meta["extra"]["steps_lr"]:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        method.losses(golden.tensors["image"], golden.tensors["label"])["loss"].backward()
        optimizer.step()
    expected = golden.part("steps/")
    with torch.no_grad():
        logits = method.eval()(golden.tensors["image"])
    assert near(logits, expected.pop("logits"))
    state = method.public_state_dict()
    assert expected
    assert all((state[name] - value).abs().max() < 1e-6 for name, value in expected.items())


def test_the_classifier_starts_from_the_tuned_text_features(tiny_clip, tmp_path):
    golden = read(GOLDEN / "twosfs_stage2.safetensors")
    method = build(golden, tiny_clip, tmp_path)
    method.begin_stage(0)
    assert (method.classifier - golden.tensors["init/classifier"]).abs().max() < 1e-6


def test_locoops_patches(tiny_clip, tmp_path):
    golden = read(GOLDEN / "locoop.safetensors")
    method = build(golden, tiny_clip, tmp_path)
    output = method.output(golden.tensors["image"])
    cosines = method.local_cosines(*output[1:])
    assert near(method.logit_scale * cosines, golden.tensors["logits_local"])
    for name, value in scores(method, output).items():
        assert (value + golden.tensors[f"ood_cosine/{name}"]).abs().max() < 1e-5
    check_other_classes(golden, "new_classnames", "logits_eval_new", tiny_clip)
    none = build(golden, tiny_clip, tmp_path, TOPK=6)
    terms = none.losses(golden.tensors["image"], golden.tensors["label"])
    assert terms["entropy"] == 0
    assert near(terms["loss"], golden.tensors["none_selected/loss"])
    none.backward(terms)
    wanted = golden.tensors["none_selected/grad"]
    assert (none.prompt_learner.ctx.grad - wanted).norm() < 1e-3 * wanted.norm()


def test_the_base_of_task_residuals(tiny_clip, tmp_path):
    golden = read(GOLDEN / "taskres.safetensors")
    names, image = golden.meta["classnames"], golden.tensors["image"]

    def built(dataset="EuroSAT", **more):
        return build_method("TaskRes", node_of(golden, **more), tiny_clip, names, dataset)

    for dataset, name in (("EuroSAT", "frozen"), ("ImageNet", "imagenet")):
        base = golden.tensors[f"{name}/base_text_features"]
        assert (built(dataset).base - base).abs().max() < 1e-5
    path = tmp_path / "enhanced.pt"
    torch.save({"state_dict": {"weight": golden.tensors["enhanced/weight"]}}, path)
    enhanced = built(ENHANCED_BASE=str(path))
    enhanced.load_public_state_dict(golden.params)
    assert (enhanced.base - golden.tensors["enhanced/base_text_features"]).abs().max() < 1e-5
    assert near(enhanced(image), golden.tensors["enhanced/logits"])
    theirs = golden.tensors["raw_names/base_text_features"]  # in a public checkpoint
    method = built()
    method.load_public_state_dict(golden.params | {"prompt_learner.base_text_features": theirs})
    assert near(method(image), golden.tensors["raw_names/logits_eval"])


def test_ablations_of_gallop(tiny_clip, tmp_path):
    """Compares with parts of the file: one loss, the global score, a fixed map of the patches."""
    golden = read(GOLDEN / "gallop.safetensors")
    off = {"USE_LOCAL_LOSS": False, "USE_LOCAL_FEATURES": False, "LEARN_LOCAL_PROJ": False}
    method = build(golden, tiny_clip, tmp_path, **off)
    terms = method.losses(golden.tensors["image"], golden.tensors["label"])
    assert terms.keys() == {"loss", "global"}
    assert near(terms["loss"], golden.tensors["loss/global"])
    method.backward(terms)
    grads = {name: p.grad for name, p in method.public_parameters().items()}
    assert grads["global_prompt"] is not None and grads["local_proj.linear.weight"] is None
    logits = method.eval()(golden.tensors["image"])
    assert near(logits, golden.tensors["logits/global"])


def test_scores_for_other_classes(tiny_clip, tmp_path):
    golden = read(GOLDEN / "gallop.safetensors")
    model = build(golden, tiny_clip, tmp_path).eval()
    found = scores(model, model.output(golden.tensors["image"]))
    for name in ("mcm", "gl_mcm"):  # the public code has the opposite sign
        assert (found[name] + golden.tensors[f"ood/{name}"]).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["mmrl", "mmrlpp"])
def test_other_classes_use_only_clips_head(tiny_clip, tmp_path, name):
    golden = read(GOLDEN / f"{name}.safetensors")
    method = build(golden, tiny_clip, tmp_path).eval()
    state = {"state_dict": method.public_state_dict()}
    names = golden.meta["classnames"]
    for of, wanted in ((["cat", "dog"], "logits_eval_new"), (names, "logits_eval")):
        method.load_checkpoint(Saved.of(state | {"classnames": of}), names)
        logits = method(golden.tensors["image"])
        assert near(logits, golden.tensors[wanted])


def test_transport_distances(tiny_clip, tmp_path):
    """Compares with `token_ot` and `distance` of the paper form."""
    files = [p for p in FILES if p.name.startswith("align_paper") and "beta0" not in p.name]
    assert files
    for path in files:
        golden = read(path)
        method = build(golden, tiny_clip, tmp_path).eval()
        with torch.no_grad():
            output = method.output(golden.tensors["image"])
            d = method.token_level(output.image, output.text)
        assert (d - golden.tensors["token_ot"]).abs().max() < 1e-5
        distance = 1 - output.logits / method.logit_scale
        assert (distance - golden.tensors["distance"]).abs().max() < 1e-5


# ------------------------------------------------------------------ only in one method


def one(name: str, clip_model, folder) -> tuple[Golden, Method]:
    golden = read(GOLDEN / f"{name}.safetensors")
    return golden, build(golden, clip_model, folder)


def test_prograd_projects_only_what_contradicts(tiny_clip, tmp_path):
    """The file has labels for which the two gradients agree, and labels for which they do not."""
    golden, method = one("prograd", tiny_clip, tmp_path)
    check_step(method, golden, "aligned/")
    plain, projected = golden.part("grad_ce/"), golden.part("grad/")
    assert not all(torch.equal(plain[name], projected[name]) for name in plain)


def test_promptsrc_mean_over_the_epochs(tiny_clip, tmp_path):
    golden, method = one("promptsrc", tiny_clip, tmp_path)
    last = golden.meta["extra"]["epochs"]
    weights = torch.tensor(method.average.weights(last), dtype=torch.float64)
    assert (weights - golden.tensors["gpa_weights"]).abs().max() < 1e-12
    for epoch in range(1, last + 1):
        trained = golden.part(f"epoch/{epoch}/")
        method.load_public_state_dict(trained)
        method.after_epoch(epoch, last)
        state = method.public_state_dict()
        if epoch < last:
            assert all(torch.equal(state[name], value) for name, value in trained.items())
    expected = golden.part("gpa/")
    logits = expected.pop("logits")
    assert set(state) == set(expected)
    assert all((state[name] - value).abs().max() < 1e-6 for name, value in expected.items())
    assert near(method.eval()(golden.tensors["image"]), logits)


def test_promptsrc_where_every_word_counts(tmp_path):
    golden = read(GOLDEN / "promptsrc.safetensors")
    clip_model = load_clip(str(GOLDEN / "tiny_clip_seed0.safetensors"))
    rows = golden.part("full/token_embedding.")
    clip_model.token_embedding.weight.data[rows["ids"]] += rows["rows"]
    method = build(golden, clip_model, tmp_path)
    check_step(method, golden, "full/")
    check_frozen(method, golden, "full/")
    assert golden.meta["templates"]["frozen"] == list(templates.PROMPTSRC)


def test_tcp_class_tokens(tiny_clip, tmp_path):
    golden, method = one("tcp", tiny_clip, tmp_path)
    tokens = method.tokens()
    assert (tokens - golden.tensors["class_tokens"]).abs().max() < 1e-5


def test_golden_folder_covers_every_public_method():
    """UPT has no golden file, as it was not compared with published code."""
    stems = " ".join(p.stem for p in GOLDEN.rglob("*.safetensors"))
    prefix = {"MMP": "align_released", "ALIGN": "align_paper", "ZeroshotCLIP": "zeroshot_clip"}
    prefix |= {"MultiModalAdapter": "mma", "CLIPAdapter": "clip_adapter"}
    prefix |= {"TipAdapter": "tip_adapter", "TipAdapterF": "tip_adapter_f", "LNOnly": "ln_only"}
    prefix |= {"LinearProbe": "linear_probe", "AWTFewShot": "awt"}
    ours = {name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.")}
    for method in ours - {"UPT"}:
        assert prefix.get(method, method.lower()) in stems
