"""Run a measurement in a separate process, so that its memory is counted apart and may run out."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from trainers.prompting.plugins import load_plugins

from .case import Case


class OutOfMemory(Exception):
    """A measurement does not fit into this machine."""


def in_process(function: Callable, case: Case, *args):
    """Call a function with a case in a new process; raises OutOfMemory if that runs out of it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        try:
            return pool.submit(catch_out_of_memory, function, case, *args).result()
        except BrokenProcessPool:  # the system killed the process: it took too much memory
            raise OutOfMemory from None


def end_with_parent() -> None:
    """Make this process end as soon as its parent ends, or at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def wait():
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def catch_out_of_memory(function: Callable, case: Case, *args):
    """Call a function with a case; all errors of exhausted memory are raised as OutOfMemory."""
    load_plugins(case.plugins)
    try:
        return function(case, *args)
    except (MemoryError, torch.OutOfMemoryError):
        raise OutOfMemory from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory from None
