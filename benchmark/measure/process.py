"""Run a measurement in a separate process, so that its memory is counted apart and may run out."""

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from recipe.run import short_of_memory
from trainers.prompting.plugins import load_plugins

from .case import Case


class OutOfMemory(Exception):
    """A measurement does not fit into this machine."""


def in_process(function: Callable, case: Case, *args):
    """Call a function with a case in a new process; raises OutOfMemory if that runs out of it."""
    context = multiprocessing.get_context("spawn")
    at_once = signal.SIGINT, signal.SIG_DFL  # Ctrl-C ends it without a traceback
    with ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=at_once) as pool:
        try:
            return pool.submit(catch_out_of_memory, function, case, *args).result()
        except BrokenProcessPool:  # the system killed the process: it took too much memory
            raise OutOfMemory from None


def catch_out_of_memory(function: Callable, case: Case, *args):
    """Call a function with a case; all errors of exhausted memory are raised as OutOfMemory."""
    load_plugins(case.plugins)
    try:
        return function(case, *args)
    except Exception as error:
        if short_of_memory(error):
            raise OutOfMemory from None
        raise
