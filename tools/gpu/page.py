"""Make docs/gpu/DEVICE.md of the files of all pieces."""

from pathlib import Path
from statistics import median

from tabulate import tabulate

from benchmark.measure.cost import Device
from benchmark.measure.speed_tables import number
from trainers.prompting.running.memory import GIB

from .store import read

PIECES = ("check", "solver", "steps", "resume", "run")


def files_in(folder: Path) -> dict[str, dict]:
    """Return the content of the files of all pieces in a folder, by the name of the piece."""
    paths = {name: folder / f"{name}.json" for name in PIECES}
    return {name: read(path) for name, path in paths.items() if path.exists()}


def page(files: dict[str, dict]) -> str:
    """Return the page of some pieces; those that are missing are named."""
    machine = next(iter(files.values()))["machine"]
    told = f"PyTorch {machine['torch']}, CUDA {machine['cuda']}"
    parts = [f"# {machine['device']}", f"{told}. Made by `bash scripts/gpu_report.sh`."]
    missing = [name for name in PIECES if name not in files]
    if missing:
        parts.append(f"**Not measured:** {', '.join(missing)}.")
    for name, content in files.items():
        parts += SECTIONS[name](content["records"])
    return "\n\n".join(parts) + "\n"


def rates(files: dict[str, dict]) -> dict | None:
    """Return what `cost --gpu` needs to know of this GPU; None if a piece for it is missing.

    The efficiency is that of steps which take at least twice as long as the shortest: shorter ones
    wait for launches of kernels.
    """
    if not {"steps", "resume"} <= files.keys():
        return None
    found = [one.get("training", {}) for one in files["steps"]["records"].values()]
    steps = [one for one in found if one.get("waits") is not None]
    starts = [one.get("start_seconds") for one in files["resume"]["records"].values()]
    half = [one for one in steps if one["precision"] != "fp32"]
    single = [one for one in steps if one["precision"] == "fp32"]
    if not (half and single and any(starts)):
        return None
    least = min(median(one["seconds"]) for one in half)
    long = [one["of_peak"] for one in half if median(one["seconds"]) >= 2 * least]
    machine = files["steps"]["machine"]
    return Device(
        title=f"{machine['device']}, measured",
        half=max(one["peak_rate"] for one in half),
        single=max(one["peak_rate"] for one in single),
        efficiency=median(long or [one["of_peak"] for one in half]),
        step=least,
        start=median(filter(None, starts)),
        memory=int(float(machine["memory"].split()[0]) * GIB),
    )._asdict()


def table(head: list[str], lines: list[list]) -> str:
    """Return a Markdown table."""
    return tabulate(lines, head, tablefmt="github", disable_numparse=True)


def milliseconds(values: list[float] | None) -> str:
    """Return the median of times in seconds, with their range, as milliseconds."""
    if not values:
        return "-"
    a, b, c = (1000 * x for x in (median(values), min(values), max(values)))
    digits = ",.0f" if a >= 100 else ".3g"
    return f"{a:{digits}} ({b:{digits}}-{c:{digits}})"


def check(records: dict) -> list[str]:
    """Return the section on correctness."""
    parts = ["## Correctness"]
    lines = [
        [one["name"], one["found"], one["wanted"], "yes" if one["holds"] else "NO"]
        for one in records.get("check-device", {}).get("checks", [])
    ]
    if lines:
        parts.append(table(["Check", "Found", "Should be", "Holds"], lines))
    lines = []
    for name, record in records.items():
        if name == "check-device":
            continue
        cases = record.get("cases", {})
        failed = [case for case, found in cases.items() if not found["passed"]]
        worst = [
            max((found[key] for found in cases.values() if key in found), default=None)
            for key in ("logits", "loss")
        ]
        told = record.get("problem") or ", ".join(failed) or "none"
        apart = [number(value, ".1e") for value in worst]
        lines.append([name.removeprefix("tests: "), len(cases), told, *apart])
    head = ["Tests", "Cases", "Failed", "Largest difference of logits", "of losses"]
    parts.append(table(head, lines))
    parts.append(
        "`golden`: all golden files in fp32, amp and fp16. Logits may differ by 1e-4 in fp32 and "
        "by 0.05 in half precision (some methods multiply them by 100), losses by 1e-4 and 0.01. "
        "Gradients must have a cosine of 0.99999 and 0.999."
    )
    return parts


def solver(records: dict) -> list[str]:
    """Return the section on transport solvers."""
    lines = []
    for name, record in records.items():
        if "problem" in record:
            lines.append([name, record["problem"], *["-"] * 7])
            continue
        lines.append([
            name, f"{record['problems']:,}", milliseconds(record["seconds"]),
            milliseconds(record["gradient_seconds"]), number(record.get("mib"), ".0f"),
            number(record.get("gradient_mib"), ".0f"), number(record.get("error"), ".0e"),
            number(record.get("of_bandwidth"), ".1%"), number(record.get("of_peak"), ".1%"),
        ])  # fmt: skip
    head = ["Level, images x classes, solver", "Problems", "Forward (ms)", "With gradient (ms)",
            "Memory (MiB)", "with gradient", "Error", "Of bandwidth", "Of peak"]  # fmt: skip
    return [
        "## Transport solvers",
        table(head, lines),
        "Medians (range). All start from the features: 4 x 4 prompts of 196 image tokens and 4 "
        "to 6 text tokens, padded, or 4 x 4 prompts. Error: largest difference of distances from "
        "float64. The last two columns compare the necessary work (the features read once; the "
        "products of the costs) with the rates of a large copy and of a large product in float32. "
        "flash-sinkhorn solves one problem at a time, so it gets 64, of full length; it returns "
        "the entropic cost, so it has no error here.",
    ]


def steps(records: dict) -> list[str]:
    """Return the section on steps and evaluations."""
    lines, tests = [], []
    for name, record in records.items():
        if "training" not in record:  # published code
            told = record.get("problem") or milliseconds(record["seconds"])
            memory = "-" if "problem" in record else f"{record['peak_mib'] / 1024:.2f}"
            lines.append([name, told, memory, *["-"] * 4])
            continue
        one, other = record["training"], record["evaluation"]
        if "problem" in one:
            lines.append([name, one["problem"], *["-"] * 5])
        else:
            waits = "-" if one["waits"] is None else len(one["waits"])
            lines.append([
                name, milliseconds(one["seconds"]), f"{one['peak_mib'] / 1024:.2f}",
                f"{one['over_necessary']:.3f}", f"{one['of_peak']:.1%}",
                number(one["transport_share"], ".1%"), waits,
            ])  # fmt: skip
        if "problem" in other:
            tests.append([name, other["problem"], "-", "-"])
        else:
            tests.append([
                name, f"{other['images_per_second']:.4g}", f"{other['over_encoder']:.3f}",
                f"{other['peak_mib'] / 1024:.2f}",
            ])  # fmt: skip
    head = ["Training step", "Step (ms)", "Memory (GiB)", "Operations over necessary", "Of peak",
            "Transport", "Waits"]  # fmt: skip
    return [
        "## Steps and evaluations",
        table(head, lines),
        table(["Evaluation", "Images/s", "Over the image encoder", "Memory (GiB)"], tests),
        "ViT-B/16 with random weights. Peak is that of a large matrix product of the same type. "
        "Waits: how often the host waits for the device in a step. A line that ends with the name "
        "of a folder is published code from there.",
    ]


def resume(records: dict) -> list[str]:
    """Return the section on killed and resumed runs."""
    lines = []
    for name, record in records.items():
        if "problem" in record:
            lines.append([name, record["problem"], "-", "-"])
            continue
        same = "bit for bit" if record["difference"] == 0 else f"{record['difference']:.1e} apart"
        same += "" if record["killed"] else " (it ended before it was killed)"
        first, second = record["accuracies"]
        lines.append([name, same, f"{first:.2f}, {second:.2f}", f"{record['start_seconds']:.1f}"])
    head = ["Run", "Prompts without a break and resumed", "Accuracies (%)", "Start (s)"]
    return [
        "## Killed and resumed",
        table(head, lines),
        "A training on the embedded data is killed after its first epoch and resumed. With "
        "`TRAINER.DETERMINISTIC` both ends must be the same bit for bit.",
    ]


def run(records: dict) -> list[str]:
    """Return the section on the benchmark."""
    (record,) = records.values()
    if "problem" in record:
        return ["## Base-to-new", record["problem"]]
    return ["## Base-to-new", record["table"].strip()]


SECTIONS = {"check": check, "solver": solver, "steps": steps, "resume": resume, "run": run}
