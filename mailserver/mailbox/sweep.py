"""Sweeping mailboxes: messages whose time in Trash is over, and what crashed programs left behind.

A pass is a generator of steps, each short, so that the caller can give the thread back between them and
stop anywhere; the next pass finds what is left. Ages are those of `steady`, which knows when the clock
cannot be believed. Not here: when to make a pass, and which mailboxes there are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from mailserver.mailbox import trouble
from mailserver.mailbox.steady import Moment, SteadyClock
from mailserver.mailbox.tree import TRASH, folders, messages_in, opened

STALE = 36 * 3600.0  # seconds after which a file in tmp is nobody's any more (maildir(5))
BATCH = 200  # files looked at in one step


class Sweeper:
    """Sweeps the mailboxes whose paths `mailboxes` gives; mail stays in Trash for `retention` seconds."""

    def __init__(self, mailboxes: Callable[[], Iterable[str]], retention: float, clock: SteadyClock) -> None:
        self._mailboxes = mailboxes
        self._retention = retention
        self._clock = clock

    def sweep(self) -> Iterator[int]:
        """One pass: each step yields how many files it removed. Trouble with one mailbox is logged."""
        moment = self._clock.moment()
        for mailbox in self._mailboxes():
            yield 0  # a mailbox with nothing to look at is a step, too
            try:
                yield from self._sweep_mailbox(mailbox, moment)
            except FileNotFoundError:  # no mail yet, or removed meanwhile
                continue
            except OSError as error:
                trouble.log("sweep-failed", mailbox, error)

    def _sweep_mailbox(self, mailbox: str, moment: Moment) -> Iterator[int]:
        errors: list[OSError] = []  # what cannot be removed keeps nothing else
        for subdirectory in ("cur", "new"):
            yield from _expire(mailbox, (TRASH, subdirectory), messages_in, moment, self._retention, errors)
        yield from _expire(mailbox, (), _half_written, moment, STALE, errors)
        yield from _expire(mailbox, ("tmp",), messages_in, moment, STALE, errors)
        for folder in folders(mailbox):
            yield from _expire(mailbox, (folder, "tmp"), messages_in, moment, STALE, errors)
        if errors:
            raise errors[0]


def _half_written(directory: int) -> list[str]:
    """What `durable.files.replace` leaves beside our files in a mailbox when it is cut off."""
    return [name for name in os.listdir(directory) if name.startswith(".tmp-")]


def _expire(
    mailbox: str,
    place: tuple[str, ...],
    listing: Callable[[int], list[str]],
    moment: Moment,
    age: float,
    errors: list[OSError],
) -> Iterator[int]:
    """Remove the listed files of one directory that have been there longer than `age` seconds."""
    with _gathered(errors), opened(mailbox, *place) as directory:
        names = listing(directory)
        for start in range(0, len(names), BATCH):
            yield sum(_remove(name, directory, moment, age, errors) for name in names[start : start + BATCH])


def _remove(name: str, directory: int, moment: Moment, age: float, errors: list[OSError]) -> bool:
    """Remove a file by its ctime: that is when it came here, and writing to it counts as well."""
    removed = False
    with _gathered(errors):
        changed = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ctime
        if moment.has_passed(changed, age):
            os.unlink(name, dir_fd=directory)
            removed = True
    return removed


@contextlib.contextmanager
def _gathered(errors: list[OSError]) -> Iterator[None]:
    """What is gone already is no error."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        if not errors:  # one is told; each would keep the frames it came through
            errors.append(error)
