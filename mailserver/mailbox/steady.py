"""Ages that can be trusted though the clock may leap: nothing expires because somebody set the time.

Wall time is compared with the time since boot between the passes of a process, and with a small state file
between processes. Two things come of it:

- After a leap that is certain (the clock ran apart from the time since boot, or is behind a time seen
  before) no file is taken to be older than the leap: what an older time stamp says is unknown.
- After a long silence (no pass for more than a day, which may be an outage or a leap while nothing ran)
  nothing expires for another day, in which a wrong clock is likely to be put right, and so becomes certain.

State: `<last pass> <no age counts from before> <nothing expires before>`, seconds since the epoch.
Not here: what expires (`sweep`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

from mailserver import maillog
from mailserver.durable import files
from mailserver.mailbox import trouble
from mailserver.mailbox.tree import read_lines

LEAP = 300.0  # seconds of difference that no adjustment of a healthy clock explains
DAY = 86_400.0
SILENCE = DAY + 7200  # seconds without a pass; passes come each hour or more often


class Moment(NamedTuple):
    """The time of one pass, seconds since the epoch."""

    now: float
    ages_from: float
    expiry_from: float

    def has_passed(self, stamp: float, age: float) -> bool:
        """Whether something of the time `stamp` is certainly more than `age` seconds old."""
        return self.now >= self.expiry_from and self.now - max(stamp, self.ages_from) > age


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine is suspended


class SteadyClock:
    """Makes the moment of each pass and remembers the last one, in `state` on disk too."""

    def __init__(
        self,
        state: str,
        wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = _since_boot,
    ) -> None:
        self._state = state
        self._wall = wall
        self._since_boot = since_boot
        self._last: Moment | None = None
        self._last_since_boot = 0.0

    def moment(self) -> Moment:
        """The present, judged against the last pass; never raises."""
        now, since_boot = self._wall(), self._since_boot()
        if self._last is None:
            moment = self._after_start(now)
        else:
            expected = self._last.now + since_boot - self._last_since_boot
            moment = _leapt(now) if abs(now - expected) > LEAP else self._last._replace(now=now)
        self._last, self._last_since_boot = moment, since_boot
        self._save(moment)
        return moment

    def _after_start(self, now: float) -> Moment:
        saved = self._load()
        if saved is None:  # a new installation: files may be older than what we know of the clock
            return Moment(now, 0.0, now + DAY)
        if now < saved.now - LEAP:
            return _leapt(now)
        if now > saved.now + SILENCE:
            return Moment(now, saved.ages_from, now + DAY)
        return saved._replace(now=now)

    def _load(self) -> Moment | None:
        try:
            with contextlib.closing(read_lines(self._state)) as lines:
                return Moment(*map(int, next(lines, b"").split()))
        except (OSError, ValueError, TypeError):
            return None

    def _save(self, moment: Moment) -> None:
        try:
            files.replace(self._state, " ".join(f"{value:.0f}" for value in moment).encode() + b"\n")
        except OSError as error:  # the next process waits a day longer
            trouble.log("sweep-state-not-kept", self._state, error)


def _leapt(now: float) -> Moment:
    maillog.event("clock-leapt", at=f"{now:.0f}")
    return Moment(now, now, now)
