"""A child process: forked, told apart from its parent, and never outliving it. Not here: what it does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Set
from functools import partial

from mailserver import maillog

_PR_SET_PDEATHSIG = 1

Say = Callable[[], None]


def fork(
    work: Callable[[Say], None], log: maillog.MailLog, blocked: Set[signal.Signals], failed: str
) -> tuple[int, int]:
    """Fork a process that does `work` with none of the signals `blocked`, and ends.

    Returns its number, and a descriptor with an octet for each call of what `work` is given; it ends with
    the process. `failed` is the event for an exception. Raises OSError.
    """
    parent = os.getpid()
    says, tell = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(says)
        os.close(tell)
        raise
    if pid == 0:
        os.close(says)
        _be_child(work, parent, tell, log, blocked, failed)
    os.close(tell)
    return pid, says


def _be_child(
    work: Callable[[Say], None],
    parent: int,
    tell: int,
    log: maillog.MailLog,
    blocked: Set[signal.Signals],
    failed: str,
) -> None:
    """In the child: work, and never come back."""
    code = 1
    try:
        _die_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the parent decides
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        log.start()
        work(partial(_say, tell))
        code = 0
    except BaseException as error:
        maillog.fault(failed, error)
    finally:
        with contextlib.suppress(BaseException):
            log.close()
        os._exit(code)


def _say(fd: int) -> None:
    """A child's word to its parent."""
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, b"+")


def _die_with(parent: int) -> None:
    """Be killed when the parent is: a restarted one must not find its state in use (prctl(2), Linux).

    A parent that was killed before this child had its first turn is not the parent any more.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
