"""Phrases: operations as people type them, for the command line, telnet and the control socket alike.

    user add ann@example.org --quota 1G

The words of an operation, then what is said by place, and anywhere options: `--name VALUE`, `--name=VALUE`,
or a flag `--name`; quoting as in a shell, and after `--` no more options. A role knows the operations it may,
and no others. Secrets do not stand in phrases: a front end asks for `Phrase.secrets`.
Not here: the operations (`table`), carrying them out (`administration`), completion (`completion`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mailserver.admin.operation import FLAG, MOST_VALUES, Operation, Parameter
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.admin.table import TABLE

MOST = 16 * 1024  # characters of a phrase
MOST_WORDS = MOST_VALUES + 100


class Phrase(NamedTuple):
    """An operation and what is said with it, as `Administration.perform` takes it."""

    operation: Operation
    given: dict[str, object]

    @property
    def secrets(self) -> tuple[Parameter, ...]:
        """What is to be asked for, without echo, and put into `given`."""
        return tuple(one for one in self.operation.parameters if not one.kind.public)


def parse(text: str, role: Role) -> Phrase:
    """The operation that `text` asks for. Raises Refused; also for what the role may not, or nothing."""
    words = split(text)
    operation = _operation(words, role)
    if operation is None:
        raise Refused(_unknown(words, role))
    reading = _read(operation, words, role)
    return Phrase(operation, reading.given())


def meant(text: str) -> str | None:
    """The words of the operation that `text` begins with, whoever may ask for it; None for none."""
    try:
        operation = _operation(split(text), Role.OWNER)
    except Refused:
        return None
    return None if operation is None else operation.words


def begin(words: Sequence[str], role: Role) -> Reading | None:
    """How far a phrase has come with these words; None while they name no operation. Raises Refused."""
    operation = _operation(words, role)
    return None if operation is None else _read(operation, words, role)


def render(operation: Operation, given: Mapping[str, object], role: Role = Role.OWNER) -> str:
    """The phrase that `parse` reads as this. Secrets are left out."""
    places: list[str] = []
    options: list[str] = []
    for parameter in operation.said_by(role):
        value = given.get(parameter.name)
        if value is None or value is False or not parameter.kind.public:
            continue
        texts = [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
        if parameter.kind is FLAG:
            options.append(parameter.written)
        elif parameter.option:
            options += [f"{parameter.written}={text}" for text in texts]
        else:
            places += texts
    ending = ["--", *places] if any(place.startswith("--") for place in places) else places
    return " ".join([operation.words, *map(shlex.quote, options + ending)])


def allowed(role: Role) -> Iterator[Operation]:
    """What a role may ask for, in the order of the words."""
    return (TABLE[words] for words in sorted(TABLE) if TABLE[words].allows(role))


def split(text: str) -> list[str]:
    """The words of a phrase. Raises Refused."""
    if len(text) > MOST:
        raise Refused(f"a phrase has at most {MOST} characters")
    if not text.isprintable():
        raise Refused("a phrase has no control characters")
    try:
        words = shlex.split(text)
    except ValueError:
        raise Refused("a quotation is not closed") from None
    if len(words) > MOST_WORDS:
        raise Refused(f"a phrase has at most {MOST_WORDS} words")
    return words


def _operation(words: Sequence[str], role: Role) -> Operation | None:
    """The operation with the most words of those that the phrase begins with."""
    found = [one for one in allowed(role) if list(words[: len(one.words.split())]) == one.words.split()]
    return max(found, key=lambda one: len(one.words.split()), default=None)


def _unknown(words: Sequence[str], role: Role) -> str:
    """What is wrong with words that name no operation: what could follow those that lead to one."""
    while words:
        further = following(words, role)
        if further:
            return f"{' '.join(words)}: expected {', '.join(further)}"
        words = words[:-1]
    return "no such command"


def following(words: Sequence[str], role: Role) -> list[str]:
    """The words that lead from `words` on to operations."""
    count = len(words)
    found = (operation.words.split() for operation in allowed(role))
    return sorted({own[count] for own in found if len(own) > count and own[:count] == list(words)})


def _read(operation: Operation, words: Sequence[str], role: Role) -> Reading:
    reading = Reading(operation, role)
    for word in words[len(operation.words.split()) :]:
        reading.take(word)
    return reading


class Reading:
    """The words after those of an operation, one after the other."""

    def __init__(self, operation: Operation, role: Role) -> None:
        said = [one for one in operation.said_by(role) if one.kind.public]
        self._words = operation.words
        self._options = {one.written: one for one in said if one.option}
        self._places = [one for one in said if not one.option]
        self._found: dict[str, list[object]] = {}
        self._ended = False
        self.waits: Parameter | None = None
        """The option whose value comes next."""

    @property
    def place(self) -> Parameter | None:
        """What a word by place would be now."""
        return next((one for one in self._places if one.many or one.name not in self._found), None)

    @property
    def open_options(self) -> list[str]:
        """The options that may still be said."""
        found = self._options.items()
        return [] if self._ended else [name for name, one in found if one.many or one.name not in self._found]

    def take(self, word: str) -> None:
        """Raises Refused."""
        if self.waits is not None:
            self._put(self.waits, word)
            self.waits = None
        elif word == "--" and not self._ended:
            self._ended = True
        elif word.startswith("--") and not self._ended:
            self._take_option(word)
        elif (place := self.place) is not None:
            self._put(place, word)
        else:
            raise Refused(f"{self._words}: one word too many")  # which may be a secret: not repeated

    def given(self) -> dict[str, object]:
        """All that was said. Raises Refused where something is missing."""
        if self.waits is not None:
            raise Refused(f"{self._words}: {self.waits.written} needs {self.waits.kind.name}")
        for one in (*self._places, *self._options.values()):
            if one.needed and one.name not in self._found:
                raise Refused(
                    f"{self._words} needs {one.kind.name} ({one.written if one.option else one.name})"
                )
        many = {one.name for one in (*self._places, *self._options.values()) if one.many}
        return {name: tuple(values) if name in many else values[0] for name, values in self._found.items()}

    def _take_option(self, word: str) -> None:
        name, equals, value = word.partition("=")
        option = self._options.get(name)
        if option is None:
            raise Refused(f"{self._words} has no option {name[:40]!r}")
        if option.kind is FLAG:
            if equals:
                raise Refused(f"{self._words}: {name} takes no value")
            self._put(option, True)
        elif equals:
            self._put(option, value)
        elif option.name in self._found and not option.many:
            raise Refused(f"{self._words}: {name} was said before")
        else:
            self.waits = option

    def _put(self, parameter: Parameter, value: object) -> None:
        found = self._found.setdefault(parameter.name, [])
        if found and not parameter.many:
            raise Refused(f"{self._words}: {parameter.written} was said before")
        found.append(value)


# ---- help


def help(role: Role, words: str = "") -> str:
    """What there is, for a role: all commands, those that begin with `words`, or all about one."""
    wanted = words.split()
    found = [one for one in allowed(role) if one.words.split()[: len(wanted)] == wanted]
    if not found:
        return "no such command"
    if len(found) == 1 and found[0].words.split() == wanted:
        return _about(found[0], role)
    width = max(len(usage(one, role)) for one in found)
    width = min(width, 40)
    return "\n".join(f"{usage(one, role):<{width}}  {one.help}" for one in found)


def usage(operation: Operation, role: Role) -> str:
    """The form of a phrase, in a line."""
    parts = [operation.words]
    for one in operation.said_by(role):
        if not one.kind.public:
            continue
        text = f"{one.written} {one.kind.name}".rstrip() if one.option else one.kind.name
        text += "..." if one.many else ""
        parts.append(text if one.needed else f"[{text}]")
    return " ".join(parts)


def _about(operation: Operation, role: Role) -> str:
    lines = [usage(operation, role), "", operation.help]
    said = [one for one in operation.said_by(role) if one.kind.public and one.help]
    if said:
        names = {one.name: one.written if one.option else one.kind.name for one in said}
        width = max(map(len, names.values()))
        lines += ["", *(f"  {names[one.name]:<{width}}  {one.help}" for one in said)]
    return "\n".join(lines)
