"""A stand-in for train.py with the same options, files and exit codes, which learns nothing.

The environment variable FAKE maps `trainer/seed/subsample`, or else the data set, to what goes
wrong there, or to `answers` for a run that writes predictions.
"""

import argparse
import ast
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from trainers.prompting.storage.files import hold_lock, write_whole


def leave_answers(folder: Path, accuracy: float) -> float:
    """Write predictions for 100 images, about `accuracy` % right; return the exact accuracy."""
    import numpy as np  # most runs do not need it

    from trainers.prompting.record.predictions import write_predictions

    label = np.arange(100) % 3
    prediction = np.where(np.arange(100) < accuracy, label, (label + 1) % 3)
    columns = {"image": [f"{i:02}.png" for i in range(100)], "label": label}
    columns |= {"prediction": prediction, "top": prediction[:, None]}
    columns |= {"probability": np.ones((100, 1)), "label_log_probability": np.zeros(100)}
    write_predictions(folder, columns)
    return 100 * float((prediction == label).mean())


def run(words=None) -> None:
    """Write the files of a run and exit as FAKE says."""
    parser = argparse.ArgumentParser()
    for flag in ("root", "seed", "trainer", "dataset-config-file", "config-file", "output-dir"):
        parser.add_argument(f"--{flag}", default="")
    for flag in ("backbone", "model-dir", "resume"):
        parser.add_argument(f"--{flag}", default="")
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args(words)
    opts = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    seed, subsample = int(args.seed), opts["DATASET.SUBSAMPLE_CLASSES"]
    folder = Path(args.output_dir)
    model = folder / "prompt_learner"
    dataset, fake = Path(args.dataset_config_file).stem, json.loads(os.environ.get("FAKE", "{}"))
    wrong = fake.get(f"{args.trainer}/{seed}/{subsample}", fake.get(dataset))

    with open(os.environ["FAKE_CALLS"], "a") as calls:
        call = {
            "run": f"{args.trainer}/{seed}/{subsample}",
            "pid": os.getpid(),
            "time": time.time(),
        }
        call |= {"resume": args.resume, "checkpoint": (model / "checkpoint").exists()}
        call |= {"threads": os.environ.get("OMP_NUM_THREADS"), "dataset": args.dataset_config_file}
        call |= {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "folder": args.output_dir}
        call |= {"plugins": args.plugin}
        call |= {"config": args.config_file, "model_dir": args.model_dir, "opts": opts}
        calls.write(json.dumps(call) + "\n")

    folder.mkdir(parents=True, exist_ok=True)
    lock = ExitStack()  # until the end of the process, as in train.py
    assert lock.enter_context(hold_lock(folder / ".lock")), "another run is writing here"

    if args.eval_only and args.model_dir:
        assert (Path(args.model_dir) / "prompt_learner" / "checkpoint").exists(), "nothing to load"
    print("epoch [1/2] batch [1/4] loss 0.5 eta 0:00:01", flush=True)
    if not args.eval_only:
        model.mkdir(parents=True, exist_ok=True)
        (model / "model.pth.tar-1").write_text("prompts")
        (model / "checkpoint").write_text("model.pth.tar-1\n")

    if wrong == "error":
        print("UserWarning: this is no error", file=sys.stderr)
        print("error: The loss is not finite at step 31", file=sys.stderr)
        sys.exit(1)
    if wrong == "crash":
        raise RuntimeError("Sizes do not match:\n  size mismatch for ctx")
    if wrong == "full":  # a disk that is full before the results are complete
        (folder / "results.tmp").write_text('{"accuracy": 50.0, "tra')
        raise OSError(28, "No space left on device")
    while wrong == "until told" and not Path(os.environ["FAKE_CALLS"]).with_name("go").exists():
        time.sleep(0.05)
    if wrong == "slow" or (wrong == "slow once" and not args.resume):
        time.sleep(3600)  # until it is killed
    if wrong != "silent":
        accuracy = (50.0 if subsample == "base" else 60.0) + seed + 10 * (args.trainer == "ALIGN")
        result = {
            "trainer": args.trainer,
            "dataset": dataset.title(),
            "seed": seed,
            "shots": int(opts["DATASET.NUM_SHOTS"]),
            "subsample_classes": subsample,
            "split": opts.get("TEST.SPLIT", "test"),
            "accuracy": accuracy,
            "num_params": 0 if args.trainer == "ZeroshotCLIP" else 4096,
            "train_seconds": 0.0 if args.eval_only else 20.0,
            "test_seconds": 1.0,
            "peak_memory_mib": 512.0,
            "run": {
                "training": {"OPTIM.MAX_EPOCH": int(opts.get("OPTIM.MAX_EPOCH", 8))},
                "test": {"TEST.OOD": ast.literal_eval(opts.get("TEST.OOD", "[]"))},
                "settings": {"TRAINER.ALIGN.BETA": float(opts.get("TRAINER.ALIGN.BETA", 1))},
            },
        }
        if wrong == "answers":
            result["accuracy"] = leave_answers(folder, accuracy)
        write_whole(folder / "results.json", json.dumps(result))  # launchers read it at any time


def be(words: list[str]) -> NoReturn:
    """Be train.py with these words in its command line, as `benchmark.launch.local.train`."""
    sys.exit(run(words[1:]))


if __name__ == "__main__":
    run()
