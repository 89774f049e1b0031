"""`held` with locks of the system (flock), and with what replaces them where there are none."""

import errno
import fcntl
import multiprocessing
import os
import signal

import pytest

from trainers.prompting.storage.files import hold_lock

pytestmark = pytest.mark.processes

CONTEXT = multiprocessing.get_context("fork")


def no_flock(*_):
    raise OSError(errno.ENOTSUP, "Operation not supported")


def keep(path, queue):
    with hold_lock(path) as is_held:
        queue.put(is_held)
        signal.pause()


@pytest.mark.parametrize("hard", [True, False])
def test_one_process_holds_a_lock_until_it_is_killed(tmp_path, monkeypatch, hard):
    if not hard:
        monkeypatch.setattr(fcntl, "flock", no_flock)
    path, queue = tmp_path / "lock", CONTEXT.Queue()
    other = CONTEXT.Process(target=keep, args=(path, queue))
    other.start()
    assert queue.get(timeout=300)
    with hold_lock(path) as is_held:
        assert not is_held
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with hold_lock(path, patience=5) as is_held:
        assert is_held
    with hold_lock(path) as is_held:  # the lock was released
        assert is_held
