"""TransCLIP and StatA: every number of their golden files, images in another order, priors.

Long because TransCLIP has three ways to start: zero-shot, few-shot, and on top of other methods.
"""

import json

import pytest
import tiny
import torch
from golden_files import near, read
from paths import GOLDEN

from benchmark.__main__ import main
from trainers.prompting import UserError, build_method, load_run
from trainers.prompting.checkpoint.keys import nested
from trainers.prompting.checkpoint.provenance import other_backbone
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures
from trainers.prompting.method import METHODS

NAMES = ["cat", "dog", "fish"]
SHOTS = ["TRAINER.TRANSCLIP.FEW_SHOT", "True", "TRAINER.TRANSCLIP.SEARCH_HP", "False"]


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "transclip.safetensors")


def made(golden, clip_model, **more):
    constants = {k: v for k, v in golden.meta["config"].items() if k != "SIGMA_INIT"}
    support = golden.support if more.get("FEW_SHOT") else None
    if support:
        support["images"] = support["images"].float()
    names = golden.meta["classnames"]
    method = build_method("TransCLIP", constants | more, clip_model, names, "EuroSAT", support)
    if support:
        tensors = golden.tensors
        method.take_validation(
            method.clip_features(tensors["val/image"].float()), tensors["val/label"]
        )
    return method.eval()


def inputs(golden):
    x, h = golden.tensors["query/features"], golden.tensors["frozen/text_features"]
    return ImageFeatures(x[:, None], None), TextFeatures(h[None], h[None])


def check_rounds(golden, block, states, first=0):
    """Check z, mu, v and m, which counts up to a number for each image, after each round."""
    tensors = golden.tensors
    image = inputs(golden)[0].z[:, 0]
    for i, state in enumerate(states):
        assert near(state.log_z.exp(), tensors[f"{block}/z"][11 * first + i])
        m = -((image[:, None] - state.mu) ** 2 / state.v).sum(-1) / 2
        expected = tensors[f"{block}/loglik"][11 * first + i]
        assert (m - expected).abs().max() < 1e-4 * expected.abs().max()
        if i:
            assert near(state.mu, tensors[f"{block}/mu"][10 * first + i - 1], 1e-5)
            v = tensors[f"{block}/sigma"][10 * first + i - 1]
            assert ((state.v - v) / v).abs().max() < 1e-4


def check_start(golden, block, solver):
    start = solver.start()
    for name, value in (("z", start.log_z.exp()), ("mu", start.mu), ("sigma", start.v)):
        assert near(value, golden.tensors[f"{block}/init/{name}"], 1e-5)
    index, order = solver.index.sort(1)
    assert torch.equal(index, golden.tensors[f"{block}/affinity/index"])
    assert near(solver.cosine.gather(1, order), golden.tensors[f"{block}/affinity/value"], 1e-5)
    return start


# ------------------------------------------------------------------ parity


def test_zero_shot_from_images(golden, tiny_clip):
    method = made(golden, tiny_clip)
    output = method.predict(golden.tensors["query/image"].float())
    assert near(output.image.z[:, 0], golden.tensors["query/features"], 1e-5)
    assert near(output.logits.exp(), golden.tensors["zs/prediction"])
    assert near(method.predict_all(*inputs(golden)).exp(), golden.tensors["zs/prediction"], 1e-5)
    with torch.no_grad():
        alone = method(golden.tensors["query/image"].float())
    assert near(alone, golden.tensors["zeroshot/logits"], 1e-3)


def test_every_round_of_zero_shot(golden, tiny_clip):
    x, log_q = golden.tensors["query/features"], golden.tensors["zeroshot/logits"].log_softmax(-1)
    solver = made(golden, tiny_clip).solver(x, log_q)
    check_rounds(golden, "zs", solver.rounds(check_start(golden, "zs", solver), 0.0))


@pytest.mark.parametrize("form", ["released", "aligned"])
def test_few_shot(golden, tiny_clip, form):
    method, tensors = made(golden, tiny_clip, FEW_SHOT=True, FORM=form), golden.tensors
    assert near(method.shots, tensors["support/features"], 1e-5)
    x, log_q = tensors["query/features"], tensors["zeroshot/logits"].log_softmax(-1)
    solver, block = method.solver(x, log_q), "fs" if form == "released" else "fs_aligned"
    state = check_start(golden, "fs", solver) if form == "released" else solver.start()
    for i, gamma in enumerate(golden.meta["config"]["GAMMA"]):
        states = list(solver.rounds(state if form == "released" else solver.start(), gamma))
        state = states[-1]
        assert near(state.log_z.exp(), tensors[f"{block}/prediction"][i])
        if form == "released":
            check_rounds(golden, "fs", states, i)
    found = method.predict_all(*inputs(golden))
    assert near(found.exp(), tensors[f"{block}/prediction"][0])  # all have 100% of validation
    expected = golden.meta["extra"]["accuracy"]
    right = 100 * float((found.argmax(1) == tensors["query/label"]).float().mean())
    best = expected["fs_at_best_val" if form == "released" else "fs_aligned"]
    assert right == pytest.approx(best if form == "released" else best["test_at_best_val"], abs=0.1)


def test_the_gamma_with_the_best_validation_accuracy(golden, tiny_clip):
    """The labels of the validation images are those that the last gamma predicts."""
    method, tensors = made(golden, tiny_clip, FEW_SHOT=True), golden.tensors
    x, last = tensors["query/features"], tensors["fs_aligned/prediction"][3]
    differ = tensors["fs_aligned/prediction"].argmax(-1) != last.argmax(-1)
    rows = [*range(12), *differ.any(0).nonzero()[:, 0].tolist()]
    assert differ[:3, rows].any(1).all()
    method.take_validation(x[rows], last.argmax(-1)[rows])
    assert near(method.predict_all(*inputs(golden)).exp(), last)
    one = made(golden, tiny_clip, FEW_SHOT=True, GAMMA=[0.2])
    assert not one.searches and near(one.predict_all(*inputs(golden)).exp(), last)


def test_on_top_of_other_predictions(golden, tiny_clip):
    tensors, (image, _) = golden.tensors, inputs(golden)
    for form, name in (("released", ""), ("aligned", "_no_alias")):
        method = made(golden, tiny_clip, FORM=form)
        found = method.predict_all(*inputs(golden), tensors["ontop/probabilities"])
        assert near(found.exp(), tensors[f"ontop/probabilities_prediction{name}"])
    other = tensors["ontop/prototypes"][None]
    found = method.predict_all(image, TextFeatures(other, other))
    assert near(found.exp(), tensors["ontop/prototypes_prediction"])


# ------------------------------------------------------------------ beyond the file


@pytest.mark.parametrize("few_shot", [False, True])
def test_neither_order_nor_chunks_change_a_prediction(golden, tiny_clip, few_shot):
    method, (image, text) = made(golden, tiny_clip, FEW_SHOT=few_shot), inputs(golden)
    before = method.predict_all(image, text).exp()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    method.chunk_bytes = 1000  # cosines of four images at a time
    after = method.predict_all(ImageFeatures(image.z[order], None), text).exp()
    assert (after - before[order]).abs().max() < 1e-5
    assert torch.equal(after.argmax(1), before[order].argmax(1))


@pytest.mark.parametrize("few_shot", [False, True])
def test_sums_of_neighbours_are_a_product(golden, tiny_clip, few_shot):
    method, x = made(golden, tiny_clip, FEW_SHOT=few_shot), golden.tensors["query/features"]
    z = golden.tensors["zeroshot/logits"].softmax(-1)
    solver, nodes = method.solver(x, z.log()), len(z) + (len(method.shots) if few_shot else 0)
    W = torch.zeros(nodes, nodes).scatter_(1, solver.index, solver.cosine)
    wanted = (W + W.T)[: len(z)] @ torch.cat([z, solver.Y])
    assert near(solver.of_neighbours(z), wanted, 1e-6)
    assert len(solver.joined) == len(solver.weights) == (nodes + len(z)) * solver.index.shape[1]


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("few_shot", [False, True])
def test_few_images_and_classes_without_any(golden, tiny_clip, rows, few_shot):
    method, (image, text) = made(golden, tiny_clip, FEW_SHOT=few_shot), inputs(golden)
    found = method.predict_all(ImageFeatures(image.z[:rows], None), text)
    assert found.shape == (rows, 6) and found.isfinite().all()
    assert near(found.exp().sum(1), torch.ones(rows), 1e-5)
    prior = torch.zeros(60, 6)
    prior[:, 2] = 1  # no image is of any other class
    found = method.predict_all(image, text, prior)
    assert found.isfinite().all() and (found.argmax(1) == 2).all() or few_shot


# ------------------------------------------------------------------ runs


def result(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_run_reads_all_images_together(tmp_path, capsys):
    """Whatever the batches, and the prediction is that of all images at once."""
    records, more = [], ["INPUT.TRANSFORMS", "['normalize']"]
    for size in ("3", "100"):
        out = tmp_path / size
        pairs = ["DATALOADER.TEST.BATCH_SIZE", size, *more]
        assert tiny.run(tmp_path / "data", "TransCLIP", out, 1, extra=pairs) == 0
        records.append(result(out))
    one, other = records
    assert one["accuracy"] == other["accuracy"] and one["num_test"] == 16
    assert one["beyond"] == ["whole test set"] and "calibration_error" not in one
    assert one["calibration_note"] == "the logits of TransCLIP depend on the other test images"
    assert one["temperature"] is None and "top5_accuracy" in one
    assert "A temperature and the calibration error are left out" in capsys.readouterr().out
    run = load_run(tmp_path / "3")
    files = sorted((tmp_path / "data" / "tiny_colours").glob("test_*.png"))
    assert main(["predict", "--model-dir", str(tmp_path / "3"), "--batch-size", "3", "--format",
                 "json", *map(str, files)]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "TransCLIP classifies these 16 images together, and few images cost" in said.err
    answers = [answer["classes"][0]["class"] for answer in json.loads(said.out)]
    labels = [file.name.split("_")[1] for file in files]
    right = [a == b for a, b in zip(answers, labels, strict=True)]
    assert 100 * sum(right) / 16 == pytest.approx(one["accuracy"])
    assert run.method == "TransCLIP"


def test_other_data_sets_are_not_detected(tmp_path, capsys):
    pairs = ["TEST.OOD", "['TinyOthers']"]
    assert tiny.run(tmp_path / "data", "TransCLIP", tmp_path / "out", 1, extra=pairs) == 0
    assert "ood" not in result(tmp_path / "out")
    said = "TEST.OOD is left out: the logits of TransCLIP depend on the other test images"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("trainer", ["TransCLIP", "StatA", "SPARC"])
def test_sentences_are_read_in_the_precision_of_the_run(tmp_path, trainer):
    words = [f"TRAINER.{METHODS[trainer].node}.PREC", "bf16"]
    assert tiny.run(tmp_path / "data", trainer, tmp_path / "out", 1, extra=words) == 0


def test_few_shot_runs_again_and_is_evaluated(tmp_path, capsys):
    place = tmp_path / "data", "TransCLIP", tmp_path / "out", 1
    for _ in range(2):
        assert tiny.run(*place, extra=SHOTS) == 0
    first = result(tmp_path / "out")
    assert first["beyond"] == ["whole test set"] and first["seeded"]
    flags = "--eval-only", "--model-dir", str(tmp_path / "out")
    again = tmp_path / "data", "TransCLIP", tmp_path / "again", 1, *flags
    assert tiny.run(*again, extra=SHOTS) == 0
    assert result(tmp_path / "again")["accuracy"] == first["accuracy"]
    capsys.readouterr()
    assert tiny.run(*again) == 2  # zero-shot, which would not read the folder
    assert "with these settings TransCLIP learns nothing: set them as" in capsys.readouterr().err


@pytest.mark.slow
def test_on_top_of_runs(tmp_path, tiny_clip):
    data, top = tmp_path / "data", "TRAINER.TRANSCLIP.PRIOR"
    for name in ("CoOp", "TaskRes", "LinearProbe"):
        probe = ["TRAINER.LINEAR_PROBE.SEARCH_HP", "False"] if name == "LinearProbe" else []
        assert tiny.run(data, name, tmp_path / name, 1, extra=probe) == 0
        pairs = [top, str(tmp_path / name)]
        out = tmp_path / f"on {name}"
        assert tiny.run(data, "TransCLIP", out, 1, extra=pairs) == 0
        record = result(out)
        assert record["teacher"]["method"] == name and record["beyond"][0] == "equal teacher"
        run = load_run(out)
        images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        earlier = load_run(tmp_path / name).model
        prior = earlier.predict(images).logits.softmax(-1)
        seen = run.model.see(images)
        assert near(seen.prior, prior, 1e-6)
        output = run.model.transduce([seen])
        expected = run.model.predict_all(output.image, output.text, prior)
        assert torch.equal(output.logits, expected)
    flags = "--eval-only", "--model-dir", str(out)
    assert tiny.run(data, "TransCLIP", tmp_path / "e", 1, *flags, extra=pairs) == 0
    assert result(tmp_path / "e")["teacher"] == record["teacher"]
    public = tmp_path / "public.pth.tar"
    torch.save({"state_dict": earlier.public_state_dict()}, public)
    for place, names, why in (
        (tmp_path / "no", NAMES, f"{top}: '.*no' holds no run to load, as there is no such"),
        (out, NAMES, "TransCLIP, the method of the run in '.*', adapts to the images"),
        (public, NAMES, "is of public code, which does not say its settings: give TRAINER.TRANS"),
        (tmp_path / "LinearProbe", NAMES, "of LinearProbe in '.*', of TRAINER.TRANSCLIP.PRIOR, ca"),
    ):
        with pytest.raises(UserError, match=why):
            build_method("TransCLIP", {"PRIOR": str(place)}, tiny_clip, names)
    trained = Saved.find(str(tmp_path / "CoOp"), top, "")
    cfg = nested({"MODEL.BACKBONE.NAME": run.backbone})
    assert other_backbone(trained, cfg) is None
    cfg.MODEL.BACKBONE.NAME = "RN50"
    said = "the CLIP is RN50 here and tiny_clip_seed0.safetensors there"
    assert other_backbone(trained, cfg) == said


# ------------------------------------------------------------------ StatA


@pytest.fixture(scope="module")
def stata():
    return read(GOLDEN / "stata_batches_streams.safetensors")


def made_stata(stata, clip_model, **more):
    node = stata.meta["config"] | more
    return build_method("StatA", node, clip_model, stata.meta["classnames"], "EuroSAT").eval()


STREAMS = [("0.1", 7), ("0.001", 7), ("-1", 7)]
BATCHES = [f"batch/{i}" for i in range(4)]
BATCHES += [f"stream/{gamma}/{i}" for gamma, count in STREAMS for i in range(count)]


@pytest.mark.parametrize(
    ("more", "blocks"),
    [
        ({}, [*BATCHES, "all"]),
        ({"SOFT_BETA": True}, ["soft"]),
        ({"LAMBDA_LAPLACIAN": 0.0}, ["no_laplacian"]),
    ],
)
def test_every_batch(stata, tiny_clip, more, blocks):
    method, tensors = made_stata(stata, tiny_clip, **more), stata.tensors
    h = tensors["frozen/text_features"]
    assert near(method.text().h[0], h, 1e-5)
    for block in blocks:
        stream, _, i = block.rpartition("/")
        of_stream = block.startswith("stream")
        rows = tensors[f"{stream}/order"][int(i)] if of_stream else tensors[f"{block}/index"]
        x = tensors["query/features"][rows]
        found = method.predict_all(ImageFeatures(x[:, None], None), TextFeatures(h[None], h[None]))
        expected = tensors[f"{block}/z"]
        assert near(found.exp(), expected), block
        assert torch.equal(found.argmax(1), expected.argmax(1)), block


def test_every_round(stata, tiny_clip):
    tensors = stata.tensors
    x = tensors["query/features"][tensors["batch/2/index"]]
    solver = made_stata(stata, tiny_clip).solver(x, tensors["frozen/text_features"])
    start = solver.start()
    assert torch.allclose(start.v, tensors["batch/2/init/cov"].expand_as(start.v), rtol=1e-4)
    for i, state in enumerate(solver.rounds(start, 0.0)):
        assert near(state.log_z.exp(), tensors["batch/2/z_rounds"][i])
        if i:
            assert near(state.mu, tensors["batch/2/mu_rounds"][i - 1], 1e-5)
            assert torch.allclose(state.v, tensors["batch/2/cov_rounds"][i - 1], rtol=1e-4)
        if i < 10:
            share = solver.share(state.log_z.exp())[:, 0]
            assert near(share, tensors["batch/2/beta_rounds"][i], 1e-5)


def test_the_released_variance_of_many_images(stata, tiny_clip):
    """Sums are divided after each 2,500 images, so the last 500 of 3,000 decide."""
    x = stata.tensors["query/features"].repeat(17, 1)[:3000]
    h = stata.tensors["frozen/text_features"]
    solvers = [
        made_stata(stata, tiny_clip, FORM=form).solver(x, h) for form in ("aligned", "released")
    ]
    right, released = (solver.v0 for solver in solvers)
    q = (100 * x @ h.T).softmax(-1)
    each = torch.stack([(q * (x - h[:, None])[..., d].T.square()).sum(1) for d in range(64)], 1)
    assert torch.allclose(right, each.mean(0), rtol=1e-4)
    assert torch.allclose(
        released, (each[:2500].sum(0) / 3000 + each[2500:].sum(0)) / 3000, rtol=1e-4
    )
    assert 0.1 < float((released / right).mean()) < 0.25


def test_one_image_and_a_class_without_any(stata, tiny_clip):
    """One image counts half, and cannot move the other classes from their text."""
    x, h = stata.tensors["query/features"][:1], stata.tensors["frozen/text_features"]
    solver = made_stata(stata, tiny_clip).solver(x, h)
    end = solver.last(solver.start(), 0.0)
    k = int(end.log_z.argmax())
    others = [i for i in range(6) if i != k]
    assert end.log_z.isfinite().all() and near(end.mu[others], h[others], 1e-5)
    assert not near(end.mu[k], h[k], 1e-2)
