"""What the log has kept, for operators: the story of a message, and who asked for what.

Lines come from the configured file as it is now; rotated ones and the journal are read by the command line.
Plain synchronous Python. Not here: which lines belong to a story (`story`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from mailserver.admin.entries import AuditEntry, LogLine, StoryStep
from mailserver.admin.refused import Refused
from mailserver.admin.story import fields_of, story
from mailserver.config.model import Config

MOST = 10_000  # lines of an answer

_AUDIT = ("operator", "role", "front", "operation", "outcome")
_OF_MESSAGE = frozenset({"event", "id", "message"})


def trace(config: Config, message: str) -> list[LogLine]:
    """The lines about a message. Raises Refused, OSError."""
    return [LogLine(line) for line in _story(config, message)]


def tell(config: Config, message: str) -> list[StoryStep]:
    """What became of a message, step by step. Raises Refused, OSError."""
    return [_step(line) for line in _story(config, message)]


def audit(config: Config, operator: str | None, most: int) -> list[AuditEntry]:
    """The last operations that were asked for, by `operator` or by all; the last one last."""
    found = (_audited(line) for line in _lines(config) if " event=audit " in line)
    chosen = (one for one in found if one is not None and operator in (None, one.operator))
    return list(deque(chosen, min(most, MOST)))


def _story(config: Config, message: str) -> list[str]:
    found = list(islice(story(_lines(config), message), MOST))
    if not found:
        raise Refused(f"the log says nothing of {message}")
    return found


def _lines(config: Config) -> Iterator[str]:
    if config.log_file is None:
        raise Refused("the log goes to standard error, where it cannot be read again: set log_file")
    with open(config.log_file, encoding="utf-8", errors="backslashreplace") as file:
        yield from (line.rstrip("\n") for line in file)


def _step(line: str) -> StoryStep:
    fields = fields_of(line)
    event = fields.get("event", "")
    about = [f"{name} {value}" for name, value in fields.items() if name not in _OF_MESSAGE and value]
    return StoryStep(line.partition(" ")[0], fields.get("id", ""), event, ", ".join(about))


def _audited(line: str) -> AuditEntry | None:
    fields = fields_of(line)
    if fields.get("event") != "audit":
        return None
    said = {name.removeprefix("with-"): text for name, text in fields.items() if name.startswith("with-")}
    who = {name: fields.get(name, "") for name in _AUDIT}
    return AuditEntry(at=line.partition(" ")[0], said=said, **who)
