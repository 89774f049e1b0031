"""Estimated costs: as many runs as the launcher makes, and operations as PyTorch counts them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.__main__ import main
from benchmark.measure.case import ATTENTION_ON_CPU
from benchmark.measure.cost import counted
from benchmark.measure.geometry import class_names
from trainers.prompting import build_method, load_clip


def told(capsys, words: str) -> dict[str, list[str]]:
    """Return the cells of the table by its first two columns."""
    assert main(["cost", *words.split(), "--format", "markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {" ".join(row[:2]).strip(): row[2:] for row in rows}


def test_runs_operations_and_hours(capsys):
    few = "few_shot eurosat --trainers CoOp --seeds 1,2 --shots 16"
    (runs, tflop, hours, longest, memory), total = told(capsys, few).values()
    assert runs == "2" and total[1:] == [tflop, hours, longest, memory]
    assert memory.endswith("MiB") and 2 * float(longest) == pytest.approx(float(hours), abs=0.02)
    twice = told(capsys, f"{few} OPTIM.MAX_EPOCH 400")["few_shot CoOp"]
    assert twice == told(capsys, f"{few} OPTIM.STEPS 2000")["few_shot CoOp"]  # 160 images by 32
    tested = 2 * 8100 * 35e9 / 1e12  # images through ViT-B/16
    trained = [float(text.replace(",", "")) - tested for text in (tflop, twice[1])]
    assert trained[1] == pytest.approx(2 * trained[0], rel=0.02)


@pytest.mark.parametrize(
    ("trainer", "passes"), [("CLAP", 20), ("TipAdapter", 10), ("TipAdapterF", 10 + 20)]
)
def test_images_are_seen_before_the_first_step(capsys, trainer, passes):
    """CLAP trains on features; TipAdapterF trains on images, in 20 epochs of one step."""
    words = f"few_shot eurosat --trainers {trainer} --seeds 1 --shots 16"
    tflop = float(told(capsys, words)[f"few_shot {trainer}"][1].replace(",", ""))
    assert tflop == pytest.approx((8100 + passes * 160) * 33e9 / 1e12, rel=0.05)


def test_protocols_of_transfer_share_their_trainings(capsys):
    words = "cross_dataset domain_generalization --source emoji --trainers CoOp --seeds 1"
    rows = told(capsys, words)
    assert [rows[f"{name} CoOp"][0] for name in words.split()[:2]] == ["3", "7"]


def test_jobs_of_an_estimated_time(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # without Slurm
    words = ["base2new", "emoji", "--trainers", "CoOp", "--seeds", "1 2 3", "--output"]
    words += [str(tmp_path), "--slurm", "--dry-run", "--gpu", "h100", "--per-job"]
    assert main([*words, "1h"]) == 0
    assert "#SBATCH --array=0\n" in capsys.readouterr().out
    assert main([*words, "1m"]) == 0
    assert "#SBATCH --array=0-2\n" in capsys.readouterr().out


@pytest.mark.parametrize("trainer", ["CoOp", "ALIGN", "PromptSRC"])
def test_operations_match_the_count_of_pytorch(trainer):
    node = {"ALIGN": {"M": 2, "N": 2, "DEPTH": 2}}
    node["PromptSRC"] = {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2, "GPA_MEAN": 1}
    node, K, B = node.get(trainer, {}), 30, 8
    method = build_method(trainer, node, load_clip("emoji"), class_names(K)).train()
    images, labels = torch.randn(B, 3, 64, 64), torch.arange(B)
    method.losses(images, labels)  # the teacher's features are made once
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        method.backward(method.losses(images, labels))
    step = counted(trainer, tuple(node.items()), "", "emoji", K, B, 1 << 40, 4)
    assert step.training == pytest.approx(counter.get_total_flops(), rel=0.06)
    assert step.bytes > 0 and step.weights == sum(
        p.numel() for p in load_clip("emoji").parameters()
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("eurosat", "Name one or more protocols first: "),
        ("few_shot eurosat --backbone RN50", "The operations of 'RN50' are not known, only those"),
        ("few_shot eurosat --gpu v100", "There is no GPU 'v100': "),
        ("few_shot eurosats", "did you mean 'eurosat'"),
        ("few_shot eurosat OPTIM.MAX_EPOCH -5", "MAX_EPOCH is -5 but must be a whole number"),
        ("few_shot eurosat DATALOADER.TRAIN_X.BATCH_SIZE 0", "TRAIN_X.BATCH_SIZE is 0 but must"),
        (f"few_shot eurosat OPTIM.MAX_EPOCH 1{400 * '0'}", "must be a whole number, 1 or more"),
        ("few_shot eurosat OPTIM.LRR 0.1", "OPTIM has no 'LRR': did you mean 'LR'?"),
        ("few_shot image_folder", "ImageFolder reads the folder that --root"),
    ],
)
def test_mistakes(capsys, words, sentence):
    try:
        code = main(["cost", *words.split()])
    except SystemExit as end:
        code = end.code
    assert code == 2 and sentence in capsys.readouterr().err
