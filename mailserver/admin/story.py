"""The story of one message: the lines of the log that speak of it, from its arrival to its end.

A line speaks of a message by `id=`, or by `message=` where the queue has it under further ids; reports about
it are messages of their own, and their lines belong to the story. Not here: opening logs (`cli.trace`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_FIELD = re.compile(r'([a-z-]+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')
_ESCAPED = re.compile(r'\\(["\\])')  # control characters stay as they are written
_FURTHER = re.compile(r"N\d+$")  # the queue's further entries of one message
_TAKEN = re.compile(r"^2\d\d \S+ OK ([A-Za-z0-9]{1,100})$")


def story(lines: Iterable[str], message: str) -> Iterator[str]:
    """Those of `lines`, in the order of time, that speak of a message, by whichever of its ids."""
    ours = {message, _FURTHER.sub("", message)}
    for line in lines:
        if "id=" not in line:  # nearly all lines of a large log are somebody else's
            continue
        fields = fields_of(line)
        if fields.get("id") not in ours and fields.get("message") not in ours:
            continue
        ours.add(fields.get("id", message))
        if fields.get("event") == "report" and (taken := _TAKEN.match(fields.get("reply", ""))):
            ours.add(taken[1])
        yield line


def fields_of(line: str) -> dict[str, str]:
    """The fields of a line, the first of each name; a value in quotes cannot pose as one."""
    found: dict[str, str] = {}
    for match in _FIELD.finditer(line):
        found.setdefault(match[1], match[3] if match[2] is None else _ESCAPED.sub(r"\1", match[2]))
    return found
