"""Reads what strace saw of a delivering server, and judges the order: stable before visible, both before 250.

For each message, in calls that have *returned* before the next one *begins*:
content written, then synced (fsync, fdatasync of it, or syncfs), then renamed or linked into `new/`, then the
directory synced (fsync of it, or syncfs), then its 250 sent. A message is known by its `mark`, in what the
server reads from a connection and in what it writes. Not here: running anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

CALLS = (
    "read,readv,recvfrom,recvmsg,write,writev,pwrite64,pwritev,pwritev2,"
    "fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,sendto,sendmsg"
)

_LINE = re.compile(r"(?P<pid>\d+) +(?P<time>\d+\.\d+) (?P<rest>.*)")
_WHOLE = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+).*")
_BEGUN = re.compile(r"(?P<name>\w+)\((?P<arguments>.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<arguments>.*)\) += (?P<result>-?\d+).*")
_DESCRIPTOR = re.compile(r"\d+<(?P<what>[^>]*)>")
_PATH = re.compile(r'(?:<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MARK = re.compile(r"order-\d+-for-(?P<recipients>\d+)")
_SYNCS = ("fsync", "fdatasync")
_SENDS = ("sendto", "sendmsg", "write", "writev")


class Call(NamedTuple):
    """One system call. `begun` and `ended` are places in the trace, `time` is in seconds."""

    name: str
    arguments: str
    begun: int
    ended: int
    time: float

    @property
    def descriptor(self) -> str:
        """What the first argument is open on: a path, or `socket:[...]`."""
        match = _DESCRIPTOR.match(self.arguments)
        return match["what"] if match else ""

    @property
    def strings(self) -> list[str]:
        return _STRING.findall(self.arguments)

    @property
    def is_sync(self) -> bool:
        return self.name == "syncfs" or self.name in _SYNCS

    @property
    def on_socket(self) -> bool:
        return self.descriptor.startswith(("socket", "TCP"))

    @property
    def paths(self) -> tuple[str, str]:
        """Source and target of a rename or link, each with the directory it is relative to; else empty."""
        if not self.name.startswith(("rename", "link")):
            return "", ""
        source, target = (os.path.join(base, name) for base, name in _PATH.findall(self.arguments)[:2])
        return source, target

    @property
    def gives_name(self) -> bool:
        """Does it make a file appear in a `new/`?"""
        return os.path.basename(os.path.dirname(self.paths[1])) == "new"

    @property
    def reply(self) -> str:
        """The code of an SMTP reply this call sends, or nothing."""
        sent = self.name in _SENDS and self.on_socket and self.strings
        return sent[0][:3] if sent else ""


@dataclass
class Message:
    """A test message: the files that carry its mark, the names they got in `new/`, and its 250."""

    recipients: int
    sources: set[str] = field(default_factory=set)
    names: list[Call] = field(default_factory=list)
    reply: Call | None = None


def mark(number: int, recipients: int) -> str:
    """What the text of a test message must contain, once, within the octets strace shows of a call."""
    return f"order-{number}-for-{recipients}"


def calls(lines: Iterable[str]) -> list[Call]:
    """The calls that succeeded, in the order they began."""
    found: list[Call] = []
    begun: dict[tuple[str, str], tuple[int, float, str]] = {}
    for place, line in enumerate(lines):
        match = _LINE.match(line)
        if not match:
            continue
        rest, time = match["rest"], float(match["time"])
        if part := _BEGUN.fullmatch(rest):
            begun[match["pid"], part["name"]] = (place, time, part["arguments"])
        elif part := _RESUMED.fullmatch(rest):
            start, time, arguments = begun.pop((match["pid"], part["name"]), (place, time, ""))
            if int(part["result"]) >= 0:
                found.append(Call(part["name"], arguments + part["arguments"], start, place, time))
        elif (part := _WHOLE.fullmatch(rest)) and int(part["result"]) >= 0:
            found.append(Call(part["name"], part["arguments"], place, place, time))
    return sorted(found, key=lambda call: call.begun)


def messages(trace: Iterable[Call]) -> dict[str, Message]:
    """By mark: what is written with it, where that gets a name, and which connection's reply is its 250."""
    found: dict[str, Message] = {}
    marks: dict[str, str] = {}  # of what a descriptor or a path last carried
    waiting: set[str] = set()  # connections that were told 354 and got no reply since
    for call in trace:
        if match := _MARK.search(call.arguments):
            marks[call.descriptor] = match[0]
            message = found.setdefault(match[0], Message(int(match["recipients"])))
            if not call.on_socket:
                message.sources.add(call.descriptor)
        if call.gives_name and call.paths[0] in marks:
            found[marks[call.paths[0]]].names.append(call)
        elif call.reply == "354":
            waiting.add(call.descriptor)
        elif call.reply and call.descriptor in waiting and call.descriptor in marks:
            waiting.discard(call.descriptor)
            if call.reply == "250":
                found[marks[call.descriptor]].reply = call
    return found


def violations(trace: list[Call]) -> list[str]:
    """What is in the wrong order, a line each; nothing: all is well."""
    wrong = []
    for mark, message in messages(trace).items():
        if not message.reply:
            wrong.append(f"{mark}: no 250")
            continue
        if len(message.names) != message.recipients:
            wrong.append(f"{mark}: {len(message.names)} names in new/ for {message.recipients} recipients")
        for name in message.names:
            if not _content_synced(trace, name):
                wrong.append(f"{mark}: in new/ before its content was synced")
            synced = _name_synced(trace, name)
            if synced is None or synced >= message.reply.begun:
                wrong.append(f"{mark}: 250 before the directory of new/ was synced")
    return wrong


def _content_synced(trace: Iterable[Call], name: Call) -> bool:
    """A sync of the file, begun after its last write ended, has ended before it got this name."""
    source, _ = name.paths
    written = -1
    synced = False
    for call in trace:
        if call.ended >= name.begun:
            continue
        if call.descriptor == source and call.name not in _SYNCS:
            written, synced = max(written, call.ended), False
        elif call.name == "syncfs" or (call.name in _SYNCS and call.descriptor == source):
            synced = synced or 0 <= written < call.begun
    return synced


def _name_synced(trace: Iterable[Call], name: Call) -> int | None:
    """When the directory entry made by `name` was durable."""
    directory = os.path.dirname(name.paths[1])
    ends = [
        call.ended
        for call in trace
        if call.begun > name.ended
        and (call.name == "syncfs" or (call.name in _SYNCS and call.descriptor == directory))
    ]
    return min(ends, default=None)
