"""What all processes of a server count together: numbers in rows, each under a key, in shared memory.

The memory is made before processes are forked, and of a fixed size: where a key finds no free row, it takes
that of the key that has been idle for longest among a few. There is no lock that a killed process could leave
behind: every number is written whole, and two processes that count in one row at the same instant may count
once. Keys are kept as hashes under the interpreter's secret, the same in all processes that were forked.
Not here: what is counted, and what follows from it (`mta.allowance`, `mta.guesses`).
"""

from __future__ import annotations

import mmap
import os

WAYS = 8  # rows among which a key finds its place
USERS = 1 << 17  # rows of messages sent: 6 MiB once all are in use
NETWORKS = 1 << 16  # rows of guesses, by network, and by network and user
LOGINS = 1 << 16  # rows of right passwords: 1.5 MiB


class Rows:
    """`rows` rows of so many `numbers`, all 0 at first. What counts as idle is the caller's clock."""

    def __init__(self, numbers: int, rows: int) -> None:
        self._numbers = numbers
        self._width = numbers + 2  # the key's hash, when it was taken last, the numbers
        self._sets = max(1, rows // WAYS)
        memory = memoryview(mmap.mmap(-1, self._sets * WAYS * self._width * 8))
        self._keys = memory.cast("q")
        self._values = memory.cast("d")

    def find(self, key: str) -> memoryview[float] | None:
        """The numbers of `key`; None if it has no row. Not to be kept: the row may become another's."""
        mark = _mark(key)
        for at in self._places(mark):
            if self._keys[at] == mark:
                return self._row(at)
        return None

    def take(self, key: str, now: float) -> memoryview[float]:
        """The numbers of `key`, which has a row from now on."""
        mark = _mark(key)
        places = self._places(mark)
        at = next((at for at in places if self._keys[at] == mark), -1)
        if at < 0:
            at = min(places, key=lambda at: (self._keys[at] != 0, self._values[at + 1]))
            self._keys[at] = 0
            for number in range(self._numbers):
                self._values[at + 2 + number] = 0.0
            self._keys[at] = mark
        self._values[at + 1] = now
        return self._row(at)

    def _places(self, mark: int) -> range:
        start = mark % self._sets * WAYS * self._width
        return range(start, start + WAYS * self._width, self._width)

    def _row(self, at: int) -> memoryview[float]:
        return self._values[at + 2 : at + self._width]


def _mark(key: str) -> int:
    return hash(key) or 1  # 0 is a free row's


class Counts:
    """Messages that users sent (`allowance`), guesses of networks, tries in vain (`guesses`), and logins that
    were right (`authentication`), which have a `key` of all processes."""

    def __init__(self) -> None:
        self.messages = Rows(4, USERS)
        self.guesses = Rows(3, NETWORKS)
        self.misses = Rows(1, NETWORKS)
        self.logins = Rows(1, LOGINS)
        self.key = os.urandom(32)
