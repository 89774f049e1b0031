"""A JSON file of measured items, which is written after each of them and continued later."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmark.cli import write_output
from benchmark.measure.case import device_name
from trainers.prompting.errors import UserError
from trainers.prompting.running.memory import GIB


def machine(device: str) -> dict:
    """Return what the numbers of a piece depend on besides the code."""
    found = {"device": device_name(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        found["memory"] = f"{torch.cuda.mem_get_info()[1] / GIB:.1f} GiB"
    return found


def read(path: Path) -> dict:
    """Return the content of a piece's file.

    Raises:
        UserError: it is not such a file.
    """
    try:
        content = json.loads(path.read_text())
        content["machine"]["device"], content["records"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' is not a file of this report ({type(error).__name__}): delete it to measure "
            "this piece again"
        ) from None
    return content


def measure(
    path: Path,
    device: str,
    items: Mapping[str, Callable[[], dict | None]],
    deadline: float,
    again: bool = False,
) -> bool:
    """Measure the items that a file lacks.

    An item that fails gets a record with the `problem`, so that the others are measured.

    Args:
        path: the file.
        device: `cuda`, or `cpu`.
        items: by name, functions that return a record, or None if they have to be called again.
        deadline: in seconds of `time.monotonic`; no item begins after it.
        again: True to measure items again that had a problem.

    Returns:
        True if the file has all items.

    Raises:
        UserError: the file is not one of this report, or was made on another machine.
    """
    content = {"machine": machine(device), "records": {}}
    if path.exists():
        known = read(path)
        if known["machine"] != content["machine"]:
            raise UserError(
                f"'{path}' was made with {_told(known['machine'])}; here is "
                f"{_told(content['machine'])}: choose another --output"
            )
        content = known
    for number, (name, work) in enumerate(items.items(), 1):
        kept = content["records"].get(name)
        if kept is not None and not (again and failed(kept)):
            continue
        if time.monotonic() > deadline:
            print(f"{path.stem}: stopped before {number} of {len(items)}, {name}", file=sys.stderr)
            return False
        print(f"{path.stem}: {number} of {len(items)}, {name}", file=sys.stderr, flush=True)
        try:
            record = work()
        except Exception as error:  # whatever it is, the other items are measured
            traceback.print_exc()
            record = {"problem": f"{type(error).__name__}: {error}"[:300]}
        if record is None:
            return False
        content["records"][name] = record
        write_output(path, json.dumps(content, indent=1) + "\n")
    return True


def failed(record: Mapping) -> bool:
    """Return True if an item, or a test in it, had a problem."""
    cases = record.get("cases", {}).values()
    return "problem" in record or not all(case["passed"] for case in cases)


def _told(machine: Mapping) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items())
