"""The lock of a POP3 session: between sessions of one process, between processes, after a crash."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.mailbox.lock import InUse, Lock

HOLDER = """
import sys
from mailserver.mailbox.lock import Lock
lock = Lock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_two_sessions_of_one_process(tmp_path: Path) -> None:
    first, second = Lock(str(tmp_path)), Lock(str(tmp_path))
    first.acquire()
    with pytest.raises(InUse):
        second.acquire()
    assert (first.held, second.held) == (True, False)
    second.release()
    first.release()
    first.release()
    second.acquire()
    second.release()
    assert stat.S_IMODE((tmp_path / "pop3.lock").stat().st_mode) == 0o600


def test_a_lock_is_free_though_closing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(str(tmp_path))
    lock.acquire()
    close = os.close

    def failing(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "fault")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing)
        lock.release()
    lock.acquire()
    lock.release()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_gives_the_lock_back(
    tmp_path: Path, holder: subprocess.Popen[bytes], end: int
) -> None:
    lock = Lock(str(tmp_path))
    with pytest.raises(InUse):
        lock.acquire()
    holder.send_signal(end)
    holder.wait()
    lock.acquire()
    lock.release()


def test_programs_started_meanwhile_do_not_keep_it(tmp_path: Path) -> None:
    lock = Lock(str(tmp_path))
    lock.acquire()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        lock.release()
        again = Lock(str(tmp_path))
        again.acquire()
        again.release()
        child.kill()


def test_a_refused_lock_costs_no_descriptor(tmp_path: Path) -> None:
    held = Lock(str(tmp_path))
    held.acquire()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(InUse):
            Lock(str(tmp_path)).acquire()
    assert len(os.listdir("/proc/self/fd")) == before
    held.release()


def test_the_lock_file_is_no_way_out_of_the_mailbox(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "pop3.lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError):
        Lock(str(tmp_path / "box")).acquire()
    assert not (tmp_path / "made").exists()
