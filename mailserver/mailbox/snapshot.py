"""What is in a mailbox at one moment: the names of its messages in the order of delivery, and what they tell.

A mailbox may hold tens of thousands: names are taken apart all together, by one expression over all of them,
and a `Message` is made when somebody wants that one. No name contains a slash, which therefore stands between
them. Not here: directories (`mailbox.maildir`), what names mean (`mailbox.names`).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import compress

from mailserver.mailbox.names import Message, delivery_order, unique_part

_TOGETHER = 1000
_NO_TIME = re.compile(r"/(?![0-9]{10}\.M[0-9]{6})")
"""A name that does not begin like ours; among those that do, the order of names is that of delivery."""
_WIRE_SIZE = re.compile(r",W=([0-9]{1,18})(?=[,:/]|$)(?![^/]*,W=)")  # once in a name at most


class Snapshot:
    """Messages in the order of delivery, counted from 0; `uniques` are the unique parts of their names."""

    def __init__(self, names: Sequence[str], uniques: Sequence[str], current: Collection[str]) -> None:
        """`current`: those of the names that are in `cur`."""
        self.uniques = uniques
        self._names = names
        self._current = current

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Message:
        name = self._names[index]
        return Message(name, "cur" if name in self._current else "new")

    def __iter__(self) -> Iterator[Message]:
        return map(self.__getitem__, range(len(self)))

    def only(self, wanted: Sequence[bool]) -> Snapshot:
        """Those messages for which `wanted` says so."""
        names, uniques = compress(self._names, wanted), compress(self.uniques, wanted)
        return Snapshot(list(names), list(uniques), self._current)

    def wire_sizes(self) -> array[int] | None:
        """Octets of each message with CRLF line ends; None if not every name tells."""
        sizes, tells = array("Q"), 0
        for text in pieces(self._names):
            tells += text.count(",W=")
            sizes.extend(map(int, _WIRE_SIZE.findall(text)))
        return sizes if len(sizes) == tells == len(self._names) else None


def snapshot(new: Iterable[str], cur: Collection[str]) -> Snapshot:
    """Of the names in `new` and `cur`. A message that is in both counts once, as the one in `cur`."""
    names = _in_order([*new, *cur])
    uniques = _uniques(names)
    if len(set(uniques)) < len(names):
        names = _in_order(list({unique_part(name): name for name in [*sorted(new), *sorted(cur)]}.values()))
        uniques = _uniques(names)
    return Snapshot(names, uniques, frozenset(cur))


def pieces(names: Sequence[str]) -> Iterator[str]:
    """The names, a slash before each, in a few texts: an expression keeps all other threads waiting."""
    for at in range(0, len(names), _TOGETHER):
        yield "/".join(("", *names[at : at + _TOGETHER]))


def _in_order(names: list[str]) -> list[str]:
    return sorted(names, key=delivery_order if any(map(_NO_TIME.search, pieces(names))) else None)


def _uniques(names: list[str]) -> list[str]:
    return [
        name.partition(",")[0].partition(":")[0] for name in names
    ]  # `unique_part`, without a call for each
