"""The commands of protocols: parse the arguments, do the runs, and print a table."""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from recipe.configs import read_pairs
from trainers.prompting.errors import check_name, need

from ..protocols.base import Protocol, Run, learns_nothing
from ..protocols.configs import TrainerConfigs, check_datasets, dataset_name, with_groups
from ..protocols.vary import vary
from .arguments import RESERVED, build_parser, parse
from .checks import check_settings, check_validation, for_streams, on_validation
from .engine import Engine, Settings, command
from .local import Local
from .needs import Lack, idle_device, lacking
from .progress import Progress
from .slurm import site
from .slurm.executor import Slurm
from .slurm.queue import requeue
from .start import INTERRUPTS


def launch(
    protocol: Protocol,
    argv: list[str],
    conclude: Callable[[Protocol, Engine, Path], int],
) -> int:
    """Run `python -m benchmark PROTOCOL` with the arguments after its name.

    `conclude` is called at the end with the output folder; it returns the exit code.

    Returns:
        The exit code: 0 if all runs are complete, 1 if any failed.
    """
    parser = build_parser(protocol)
    argv = site.join_slurm_words(argv, parser)
    args = parse(parser, argv)
    runs, settings = plan_runs(protocol, args)
    chosen = choose_runs(runs, args.only, args.output)
    all_of = {*chosen, *(run.needs for run in chosen)}
    local = None if args.slurm is not None else Local.of_machine(args.jobs)

    def check(asked: list[Run]) -> None:
        if local and asked and not args.dry_run:
            local.warm_up()
        check_settings(asked, settings)

    lacks: list[Lack] = []
    if args.opts and not args.only:  # a misspelled key is a mistake even if all is done
        check(runs)
    engine = Engine([run for run in runs if run in all_of], settings)
    engine.only(chosen)
    for note in engine.notes:
        print(note, file=sys.stderr)
    if not args.only:
        if not args.opts:
            check(list(engine.todo))
        lacks = lacking(list(engine.todo), settings, fetch=not args.dry_run)
        if local is None:  # the nodes may have what this machine lacks
            for lack in lacks:
                print(f"missing for {lack}", file=sys.stderr)
        elif not args.dry_run:
            need(not lacks, " / ".join(map(str, lacks)))
            if engine.todo and (note := idle_device(settings)):
                print(note, file=sys.stderr)
        if not args.dry_run and on_validation(read_pairs(args.opts)):
            check_validation(engine)
    if local is None:
        done = in_jobs(protocol, engine, args, argv)
        return conclude(protocol, engine, args.output) if done else 0
    if args.dry_run:
        print(listing(engine, lacks))
        return 0
    execute(engine, local, args.output, in_job=bool(args.only))
    if args.only:  # a job
        return int(any(engine.outcomes[run].problem for run in chosen))
    return conclude(protocol, engine, args.output)


def plan_runs(protocol: Protocol, args: argparse.Namespace) -> tuple[list[Run], Settings]:
    """Return the runs that the arguments ask for, and the settings that they share."""
    need(
        not (args.backbone and args.features),
        "--features are of one backbone already: leave --backbone out",
    )
    configs = TrainerConfigs(args.config, args.plugins, args.backbone, args.features)
    check_datasets(args.datasets)
    own = {flag[2:]: getattr(args, flag[2:]) for flag in protocol.options}
    runs = protocol.plan(args.output, args.datasets, args.seeds, configs, **own)
    runs = vary(runs, args.vary, args.output)
    if on_validation(read_pairs(args.opts)):  # new classes and targets must stay unseen until then
        runs = [run for run in runs if not run.eval_only]
    runs = for_streams(runs, args.opts)
    for key in dict.fromkeys(key for run in runs for key in run.opts[::2]):
        need(key not in RESERVED, f"{key} cannot be varied: {RESERVED.get(key)} sets it")
    datasets = {run.dataset for run in runs}
    settings = Settings(
        root=Path(os.path.abspath(args.root)) if args.root else None,
        backbone=args.backbone,
        features=dict.fromkeys(datasets, args.features) if args.features else {},
        plugins=args.plugins,
        opts=args.opts + other_sets(args.ood),
    )
    settings.check_apart(datasets)
    return runs, settings


def other_sets(datasets: Collection[str]) -> tuple[str, ...]:
    """Return the KEY VALUE pair that tests runs on other data sets, too; empty without any."""
    datasets = with_groups(datasets)
    check_datasets(datasets)
    return ("TEST.OOD", str([dataset_name(name) for name in datasets])) if datasets else ()


def in_jobs(protocol: Protocol, engine: Engine, args: argparse.Namespace, argv: list[str]) -> bool:
    """Submit the runs to Slurm; return True if all have ended, as after `--wait`."""
    _, ours = site.build_parser().parse_known_args(argv)
    words = ["benchmark", protocol.name, *(word for word in ours if word != "--dry-run")]
    asked = site.read_site(args.slurm)
    executor = Slurm(args.output, protocol.name, words, asked, args.per_job)
    if args.dry_run:
        print(executor.dry_run(engine))
        return False
    if args.wait or not engine.todo:
        execute(engine, executor, args.output)
        return True
    busy, submitted = executor.submit(engine)
    later = len(engine.todo) - len(busy) - len(submitted)
    more = f", {later} need a training in the queue" if later else ""
    print(
        f"{len(engine.runs)} runs: {len(engine.runs) - len(engine.todo)} were done, {len(busy)} in "
        f"the queue, {len(submitted)} have been submitted{more}.\n"
        f"`python -m benchmark status {shlex.quote(str(args.output))}` shows their progress. "
        "Rerun this command later: it submits runs that are missing, or prints the table if none "
        "is.",
        file=sys.stderr,
    )
    return False


def choose_runs(runs: list[Run], folders: list[str] | None, output: Path) -> list[Run]:
    """Return the runs with these folders below the output; all runs if none is given."""
    if not folders:
        return runs
    by_folder = {run.folder.relative_to(output).as_posix(): run for run in runs}
    return [by_folder[check_name("run", folder, by_folder)] for folder in folders]


def execute(engine: Engine, executor: Local | Slurm, output: Path, in_job: bool = False) -> None:
    """Execute the runs and show progress; exit with code 130 if interrupted.

    With `in_job`, an interrupted process puts its Slurm job back into the queue.
    """
    print(
        f"{len(engine.runs)} runs, {len(engine.todo)} to do; {executor.headline}; output: {output}",
        file=sys.stderr,
    )
    started = time.time()
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        executor.execute(engine, Progress())
    except KeyboardInterrupt:
        for number in INTERRUPTS:  # Slurm may repeat them
            signal.signal(number, signal.SIG_IGN)
        print("Interrupted. Rerun the same command to resume.", file=sys.stderr)
        if in_job and "SLURM_JOB_ID" in os.environ:
            advanced = any(engine.has_advanced(run, started) for run in engine.todo)
            print(requeue(advanced), file=sys.stderr, flush=True)
        sys.exit(130)


def listing(engine: Engine, lacks: list[Lack]) -> str:
    """Return shell code: a comment and a command for each run, what is missing, and a summary."""
    lines = []
    for run in engine.runs:
        if run in engine.todo:
            resume = engine.resumes(run)
            lines.append(f"# {'resume' if resume else 'run'}: {run}")
            lines.append(shlex.join(command(run, engine.settings, resume)))
        else:
            lines.append(f"# skip: {run} (finished)")
    lines += [f"# missing for {lack}" for lack in lacks]
    todo, done = len(engine.todo), len(engine.runs) - len(engine.todo)
    trained = sum(not (run.eval_only or learns_nothing(run.trainer)) for run in engine.todo)
    counts = f"{trained} with training, {todo - trained} without; finished: {done}"
    return "\n".join([*lines, f"# runs to do: {counts}"])
