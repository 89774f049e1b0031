"""Streams of test images: orders and batches, runs in them, zero-shot CLIP beside, mistakes."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from dassl.config import get_cfg_default
from golden_files import read
from models import settings
from paths import GOLDEN
from tiny import results

from benchmark.records import value_of
from trainers.prompting import OnSupport, UserError, build_method, extend_cfg, load_run
from trainers.prompting.capabilities.at_test_time import count_views, reset
from trainers.prompting.embedded import file_sha256
from trainers.prompting.method import METHODS
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.running.precision import Precision
from trainers.prompting.storage.run_record import stream_text
from trainers.prompting.trainer import streams
from trainers.prompting.trainer.evaluation import zero_shot
from trainers.prompting.trainer.streams import arranged_loader, check_stream, read_stream

NAMES = ["cat", "dog", "fish"]
CPU = torch.device("cpu")
LABELS = np.repeat([0, 1, 2], [5, 4, 3])


def new_cfg():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.SEED = 1
    return cfg


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "stata_batches_streams.safetensors")


# ------------------------------------------------------------------ orders


def test_tasks_are_those_of_the_public_code(golden):
    labels = golden.tensors["query/label"].numpy()
    tasks = read_stream("few:1-3:40:4", labels, seed=50)
    assert tasks.tasks and len(read_stream("few:1-3:40", labels, seed=50).batches) == 1000
    for i, rows in enumerate(tasks.batches):
        assert rows.tolist() == golden.tensors[f"batch/{i}/index"].tolist()


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_task_is_drawn_also_where_it_takes_its_whole_pool(size):
    """As StatA's code does (`>=`): the draw puts the pool of 5 into another order."""
    (task,) = streams.draw_tasks(np.zeros(5), 1, 1, size, 1, np.random.RandomState(3))
    random = np.random.RandomState(3)
    random.randint(1, 2)
    expected = np.arange(5) if size > 5 else random.choice(5, size, replace=False)
    random.shuffle(expected)
    assert task.tolist() == expected.tolist()


@pytest.mark.parametrize("gamma", ["0.1", "0.001", "-1"])
def test_streams_are_those_of_the_public_code(golden, gamma):
    """With other seeds for the shares and the order inside a part; the last batch is kept."""
    labels, tensors = golden.tensors["query/label"].numpy(), golden.tensors
    seeds = np.random.RandomState(60), np.random.default_rng(9)
    value = None if gamma == "-1" else float(gamma)
    order = np.concatenate([*streams.draw_parts(labels, value, 24, *seeds)])
    assert order.tolist() == tensors[f"stream/{gamma}/indices_all"].tolist()
    text = "separate:24" if gamma == "-1" else f"stream:{gamma}:24"
    stream = read_stream(text, labels, seed=60)
    assert [*map(len, stream.batches)] == [24] * 7 + [12] and not stream.tasks
    assert sorted(stream.order) == [*range(180)]
    assert stream.digest == read_stream(text, labels, seed=60).digest
    assert stream.digest != read_stream(text, labels, seed=61).digest


def test_an_order_from_a_file(tmp_path):
    order = [2, 0, 1, *range(11, 2, -1)]
    (tmp_path / "order.txt").write_text("\n".join(map(str, order)))
    for size, sizes in (("", [12]), (":5", [5, 5, 2])):
        stream = read_stream(f"{tmp_path}/order.txt{size}", LABELS, seed=1)
        assert stream.order == order and [*map(len, stream.batches)] == sizes


def test_what_a_record_says_of_a_stream(tmp_path, monkeypatch):
    """Of a file also what it holds; a file that has the name of a drawn stream is never read."""
    monkeypatch.chdir(tmp_path)
    for name in ("shuffled", "order.txt", "stream:0.1"):
        (tmp_path / name).write_text("0 1")
    digest = file_sha256(tmp_path / "order.txt")[:12]
    said = {"order.txt": f"order.txt {digest}", "order.txt:64": f"order.txt:64 {digest}"}
    for text in ("shuffled", "stream:0.1:4", "few:1-4:64", "gone.txt:4", *said):
        assert stream_text(text) == said.get(text, text)


DIGITS = "1" * 5000
MISTAKES = [
    "fwe:1-4:64", "few:0-4:64", "few:4-1:64", "few:1-4:0", "few:1-4:64:0", "few:3:64",
    f"few:1-2:{DIGITS}", f"order.txt:{DIGITS}", "stream", "separate", f"separate:{DIGITS}",
    "separate:\u00b2", "stream:0:4", "stream:nan:4", "stream:x:4", "stream:4", "separate:0",
    "separate:13", "separate:1:2",
]  # fmt: skip
FILES = {
    "lacking": [0, 1, 2, *range(4, 12)], "double": [2, *range(12)], "large": [*range(13)],
    "words": ["cat", *range(12)], "empty": [], "long": [DIGITS],
}  # fmt: skip


@pytest.mark.parametrize("text", [*MISTAKES, *FILES])
def test_mistakes_in_a_stream(tmp_path, text):
    if text in FILES:
        (tmp_path / text).write_text(" ".join(map(str, FILES[text])))
        text = str(tmp_path / text)
    with pytest.raises(UserError, match="few:LOW-HIGH:SIZE|must name each row from 0 to 11 once"):
        read_stream(text, LABELS, seed=1)


OF_TASKS = {"STREAM": "few:1-2:4"}
UNFIT = {
    "CoOp": ({"STREAM": "separate:4"}, "but CoOp classifies each image by itself, so that no"),
    "MTA": (OF_TASKS, "but MTA classifies each image by itself"),
    "ood": (OF_TASKS | {"OOD": ["TinyOthers"]}, "few:1-2:4: leave TEST.OOD out"),
    "unkept": (OF_TASKS | {"PREDICTIONS": False}, "by task: set TEST.PREDICTIONS True"),
    "file": ({"STREAM": "nowhere.txt"}, "is 'nowhere.txt' but must be shuffled, few:"),
}


@pytest.mark.parametrize(("name", "case"), UNFIT.items())
def test_a_stream_that_does_not_fit_the_run(tiny_clip, name, case):
    cfg = new_cfg()
    method = build_method(name if name in ("CoOp", "MTA") else "TDA", {}, tiny_clip, NAMES)
    data = SimpleNamespace(test=[SimpleNamespace(label=k) for k in LABELS], val=None)
    check_stream(method, data, cfg)  # shuffled
    cfg.TEST.update(case[0])
    with pytest.raises(UserError) as error:
        check_stream(method, data, cfg)
    assert case[1] in str(error.value)


# ------------------------------------------------------------------ runs

TEST = [(name, i) for name in tiny.COLOURS for i in range(4)]  # the order of the data set
LABEL = torch.tensor([k for k in range(4) for _ in range(4)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("streams")


def evaluated(place, trainer, stream, out=""):
    """Return the folder, record and predictions of a run on 16 images, its method, features."""
    out = place / (out or stream.replace(":", "_"))
    pairs = ["INPUT.TRANSFORMS", "['normalize']", "DATALOADER.TEST.BATCH_SIZE", "3"]
    pairs += ["TEST.STREAM", stream]
    assert tiny.run(place / "data", trainer, out, 1, extra=pairs) == 0
    run, folder = load_run(out), place / "data" / "tiny_colours"
    images = [run.preprocess(run.read(folder / f"test_{name}_{i}.png")) for name, i in TEST]
    record = results(out)
    x = run.model.clip_features(torch.stack(images))
    return out, record, read_predictions(out), run.model, x


def accuracy(logits, rows):
    return 100 * float((logits.argmax(1) == LABEL[rows]).float().mean())


@pytest.mark.parametrize("name", ["TDA", "DPE", "StatA", "TransCLIP"])
def test_a_task_begins_with_an_empty_memory(tiny_clip, name):
    """Images are encoded once, and classified as if there were no other task."""
    torch.manual_seed(0)
    method = build_method(name, {}, tiny_clip, NAMES).eval()
    rows = torch.randn(12, method.width)
    items = [
        {"img": x, "label": k, "impath": str(i)}
        for i, (x, k) in enumerate(zip(rows, LABELS, strict=True))
    ]
    trainer = SimpleNamespace(method=method, cfg=new_cfg(), precision=Precision("fp32", CPU))
    trainer.cfg.TEST.STREAM = "few:1-2:5:4"
    trainer.parse_batch_train = lambda batch: ([batch["img"]], batch["label"])
    trainer.test_loader = torch.utils.data.DataLoader(items, batch_size=2)
    test = [SimpleNamespace(label=k) for k in LABELS]
    trainer.dm = SimpleNamespace(dataset=SimpleNamespace(test=test))
    found = arranged_loader(trainer, "test")
    batches, stream = [*found], read_stream("few:1-2:5:4", LABELS, seed=1)
    assert found.stream.digest == stream.digest and len(found) == len(batches) > 4
    files = [int(file) for batch in batches for file in batch["impath"]]
    assert files == stream.order
    assert torch.cat([batch["label"] for batch in batches]).tolist() == LABELS[files].tolist()
    logits = torch.cat([batch["output"].logits for batch in batches])
    expected, carried = [], []
    for task in stream.batches:
        carried.append(method.predict(rows[task]).logits)
        reset(method)
        expected.append(method.predict(rows[task]).logits)
    assert torch.equal(logits, torch.cat(expected))
    assert torch.equal(logits, torch.cat(carried)) == (name in ("StatA", "TransCLIP"))


def test_a_run_on_tasks(place, capsys):
    """Accuracies are means over the tasks, and there are no predictions."""
    _, record, predictions, method, x = evaluated(place, "TDA", "few:1-2:3:20")
    stream = read_stream("few:1-2:3:20", LABEL.numpy(), seed=1)
    assert record["stream"] == {"name": "few:1-2:3:20", "order": stream.digest}
    expected, alone = [], []
    for rows in stream.batches:
        method.reset()
        output = method.predict(x[rows])
        expected.append(accuracy(output.logits, rows))
        alone.append(accuracy(output.image.z[:, 0] @ output.text.h[0].T, rows))
    assert record["tasks"]["accuracy"] == pytest.approx(expected, abs=1e-3)
    assert record["accuracy"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert record["tasks"]["zero_shot_accuracy"] == pytest.approx(alone, abs=1e-3)
    assert predictions is None and record["seeded"] and "top5_accuracy" not in record
    mean = f"Mean over 20 tasks: accuracy {record['accuracy']:.2f}%, zero"
    assert mean in capsys.readouterr().out


def test_a_stream_of_batches(place, capsys):
    """StatA sees no other image than those of a batch; rows of predictions are by image."""
    _, record, predictions, method, x = evaluated(place, "StatA", "stream:0.5:5")
    stream = read_stream("stream:0.5:5", LABEL.numpy(), seed=1)
    logits = torch.empty(16, 4)
    for rows in stream.batches:
        output = method.predict(x[rows])
        logits[rows] = output.logits
    assert predictions["label"].tolist() == LABEL.tolist()
    assert predictions["prediction"].tolist() == logits.argmax(1).tolist()
    assert predictions["turn"].argsort().tolist() == stream.order
    own = (x @ method.text().h[0].T).argmax(1)
    assert predictions["zero_shot"].tolist() == own.tolist()
    zero = record["zero_shot_accuracy"]
    assert zero == accuracy(x @ method.text().h[0].T, slice(None))
    assert f"Zero-shot CLIP on the same images: {zero:.2f}%" in capsys.readouterr().out


def test_a_memory_along_a_stream_again_and_again(place):
    """The memory is that of the images before, in the same order when the run is repeated."""
    order = [*range(15, 0, -2), *range(0, 16, 2)]  # of test images, which are more than others
    (place / "order.txt").write_text("\n".join(map(str, order)))
    found = []
    for _ in range(2):
        evaluation = evaluated(place, "TDA", f"{place}/order.txt", out="file")
        out, record, predictions, method, x = evaluation
        found.append((record["stream"]["order"], predictions["prediction"].tolist()))
        (out / "results.json").unlink()
    assert found[0] == found[1]
    name, digest = record["stream"]["name"].split()
    assert (name, len(digest)) == ("order.txt", 12)
    assert value_of(record, "TEST.STREAM") == f"order.txt {digest}"
    method.reset()
    logits = torch.cat([method.predict(x[rows]).logits for rows in torch.tensor(order).split(3)])
    assert predictions["prediction"][order].tolist() == logits.argmax(1).tolist()
    assert predictions["turn"].argsort().tolist() == order


# ------------------------------------------------------------------ zero-shot CLIP beside

BESIDE = {
    "TDA": {"VIEWS": 10}, "BoostAdapter": {"BATCH_SIZE": 10, "FORM": "surest"}, "StatA": {},
    "MTA": {"N_VIEWS": 4}, "KgCoOp": {}, "ProGrad": {}, "TCP": {"INSERT_BLOCK": 2}, "CLAP": {},
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_zero_shot_clip_of_methods_that_have_it(tiny_clip, name):
    torch.manual_seed(0)
    node = {key: x for key, x in BESIDE[name].items() if key in METHODS[name].defaults}
    images, labels = torch.randn(10, 6, 3, 32, 32), torch.arange(6) % 3
    support = (
        {"images": images[0], "labels": labels} if issubclass(METHODS[name], OnSupport) else None
    )
    method = build_method(name, node, tiny_clip, NAMES, "", support).eval()
    with torch.no_grad():
        for parameter in method.learned().values():  # as if trained
            parameter += torch.randn_like(parameter)
        output = method.predict([*images] if count_views(method) > 1 else images[0])
        own = method.teacher.h if hasattr(method, "teacher") else method.text().h[0]
        z = method.clip_features(images[0])
    assert zero_shot(method, output).tolist() == (z @ own.T).argmax(1).tolist()


@pytest.mark.parametrize("name", ["ZeroshotCLIP", "CoOp", "PromptSRC", "TPT", "TTC"])
def test_zero_shot_clip_of_others_is_not_known(tiny_clip, name):
    method = build_method(name, settings(name), tiny_clip, NAMES).eval()
    assert zero_shot(method, method.output(torch.randn(2, 3, 32, 32))) is None
