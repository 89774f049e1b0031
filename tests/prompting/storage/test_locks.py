"""Locks of files, hard and soft."""

import errno
import fcntl
import multiprocessing
import os
import signal

import pytest

from trainers.prompting.storage.files import held

pytestmark = pytest.mark.processes

CONTEXT = multiprocessing.get_context("fork")


def no_flock(*_):
    raise OSError(errno.ENOTSUP, "Operation not supported")


def keep(path, told):
    with held(path) as alone:
        told.put(alone)
        signal.pause()


@pytest.mark.parametrize("hard", [True, False])
def test_one_process_holds_a_file_and_a_killed_one_does_no_more(tmp_path, monkeypatch, hard):
    if not hard:
        monkeypatch.setattr(fcntl, "flock", no_flock)
    path, told = tmp_path / "lock", CONTEXT.Queue()
    other = CONTEXT.Process(target=keep, args=(path, told))
    other.start()
    assert told.get(timeout=20)
    with held(path) as alone:
        assert not alone
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with held(path, patience=5) as alone:
        assert alone
    with held(path) as alone:  # and given back
        assert alone
