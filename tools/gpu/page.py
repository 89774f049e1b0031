"""Make docs/gpu/DEVICE.md of the files of all pieces."""

from pathlib import Path

from benchmark.measure.speed_tables import (
    EVALUATION_NOTE,
    TRAINING_NOTE,
    evaluation_cells,
    number,
    spread,
    table,
    training_cells,
)
from benchmark.report.render import as_markdown
from benchmark.report.tables import Table, memory
from trainers.prompting.errors import UserError

from .store import read

PIECES = ("check", "solver", "steps", "resume", "run")


def files_in(folder: Path) -> dict[str, dict]:
    """Return the content of the files of all pieces in a folder, by the name of the piece."""
    paths = {name: folder / f"{name}.json" for name in PIECES}
    return {name: read(path) for name, path in paths.items() if path.exists()}


def page(files: dict[str, dict]) -> str:
    """Return the page of some pieces; those that are missing are named.

    Raises:
        UserError: the pieces are of several machines.
    """
    machine, *others = (content["machine"] for content in files.values())
    if any(other != machine for other in others):
        raise UserError(
            "The files of the pieces are of several machines: give each machine its own --output"
        )
    told = f"PyTorch {machine['torch']}, CUDA {machine['cuda']}"
    parts = [f"# {machine['device']}", f"{told}. Made by `bash scripts/gpu_report.sh`."]
    missing = [name for name in PIECES if name not in files]
    if missing:
        parts.append(f"**Not measured:** {', '.join(missing)}.")
    for name, content in files.items():
        parts += SECTIONS[name](content["records"])
    return "\n\n".join(parts) + "\n"


def section(title: str, *tables: Table) -> list[str]:
    """Return the parts of a section."""
    return [f"## {title}", *map(as_markdown, tables)]


def check(records: dict) -> list[str]:
    """Return the section on correctness."""
    tests = {}
    for name, record in records.items():
        cases = record.get("cases", {})
        failed = [case for case, found in cases.items() if not found["passed"]]
        worst = {
            key: max((found[key] for found in cases.values() if key in found), default=None)
            for key in ("logits", "loss")
        }
        tests[name.removeprefix("tests: ")] = {
            "Cases": str(len(cases)),
            "Failed": record.get("problem") or ", ".join(failed) or "none",
            "Largest difference of logits": number(worst["logits"], ".1e"),
            "of losses": number(worst["loss"], ".1e"),
        }
    caption = [
        "`golden`: all golden files in fp32, amp and fp16. Logits may differ by 1e-4 in fp32 and "
        "by 0.05 in half precision (some methods multiply them by 100), losses by 1e-4 and 0.01. "
        "Gradients must have a cosine of 0.99999 and 0.999.",
        "`half`: errors in half precision, which must not be significantly above those of OpenAI's "
        "modules, at two standard errors. One of the 24 comparisons may fail by chance.",
    ]
    return section("Correctness", table("Tests", tests, caption, "Kind"))


def solver_cells(record: dict) -> dict[str, str]:
    """Return the cells of a solver, by column."""
    if "problem" in record:
        return {"Problems": record["problem"]}
    cells = {"Problems": f"{record['problems']:,}"}
    for key, column in (("seconds", "Forward (ms)"), ("gradient_seconds", "With gradient (ms)")):
        if record[key]:
            cells[column] = spread([1000 * value for value in record[key]])
    return cells | {
        "Memory (MiB)": number(record.get("mib"), ".0f"),
        "with gradient": number(record.get("gradient_mib"), ".0f"),
        "Error": number(record.get("error"), ".0e"),
        "Of bandwidth": number(record.get("of_bandwidth"), ".1%"),
        "Of peak": number(record.get("of_peak"), ".1%"),
    }


def solver(records: dict) -> list[str]:
    """Return the section on transport solvers."""
    rows = {name: solver_cells(record) for name, record in records.items()}
    caption = [
        "Medians (range). All start from the features: 4 x 4 prompts of 196 image tokens and 4 "
        "to 6 text tokens, padded, or 4 x 4 prompts. Error: largest difference of distances from "
        "float64. The last two columns compare the necessary work (the features read once; the "
        "products of the costs) with the rates of a large copy and of a large product in float32.",
        "flash-sinkhorn solves one problem at a time, so it gets 64, of full length. It returns "
        "the entropic cost, so it has no error here.",
    ]
    return section(
        "Transport solvers",
        table("Forward and backward", rows, caption, "Level, images x classes, solver"),
    )


def public_cells(record: dict) -> dict[str, str]:
    """Return the cells of a step of published code, by column."""
    if "problem" in record:
        return {"Step (s)": record["problem"]}
    return {"Step (s)": spread(record["seconds"]), "Peak memory": memory(record["peak_mib"])}


def steps(records: dict) -> list[str]:
    """Return the section on steps and evaluations."""
    trained = {
        name: training_cells(one["training"]) if "training" in one else public_cells(one)
        for name, one in records.items()
    }
    tested = {
        name: evaluation_cells(one["evaluation"])
        for name, one in records.items()
        if "evaluation" in one
    }
    public = (
        "A line that ends with the name of a folder is published code from there. Its steps also "
        "read loss and accuracy."
    )
    return section(
        "Steps and evaluations of ViT-B/16 with random weights",
        table("Training steps", trained, [TRAINING_NOTE, public]),
        table("Evaluation", tested, [EVALUATION_NOTE]),
    )


def resume_cells(record: dict) -> dict[str, str]:
    """Return the cells of a killed and resumed run, by column."""
    column = "Prompts without a break and resumed"
    if "problem" in record:
        return {column: record["problem"]}
    same = "bit for bit" if record["difference"] == 0 else f"{record['difference']:.1e} apart"
    return {
        column: same + ("" if record["killed"] else " (it ended before it was killed)"),
        "Accuracies (%)": ", ".join(f"{value:.2f}" for value in record["accuracies"]),
        "Start (s)": f"{record['start_seconds']:.1f}",
    }


def resume(records: dict) -> list[str]:
    """Return the section on killed and resumed runs."""
    rows = {name: resume_cells(record) for name, record in records.items()}
    caption = [
        "A training on the embedded data is killed after its first epoch and resumed. With "
        "`TRAINER.DETERMINISTIC` both ends must be the same bit for bit."
    ]
    return section("Killed and resumed", table("Both ends", rows, caption, "Run"))


def run(records: dict) -> list[str]:
    """Return the section on the benchmark."""
    (record,) = records.values()
    return ["## Base-to-new", record.get("problem") or record["table"].strip()]


SECTIONS = {"check": check, "solver": solver, "steps": steps, "resume": resume, "run": run}
