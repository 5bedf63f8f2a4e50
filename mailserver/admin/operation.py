"""An operation as a value: the words that ask for it, what must be said with them, and who may.

Each operation is declared once, beside its code in `mailserver.admin.operations`; every front end reads its
parsing, help, completion and rights from here. Not here: carrying operations out (`administration`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.config.values import Duration, Size
from mailserver.mail.address import AddressError, canonical_domain, parse_mailbox

MOST_VALUES = 1000  # of one parameter
MOST_OCTETS = 8192  # of one value


class Kind(NamedTuple):
    """What a parameter holds: its name in help, and how a text becomes its value (ValueError: how not)."""

    name: str
    read: Callable[[str], object]
    choices: tuple[str, ...] = ()
    public: bool = True
    """Whether it may be shown and logged, and stands in a phrase; else it is asked for."""
    listed: tuple[str, str] | None = None
    """Which operation lists the values there are, and by which field of its entries."""


def _address(text: str) -> object:
    try:
        return parse_mailbox(text)
    except AddressError as error:
        raise ValueError(f"no address such as ann@example.org: {error}") from None


def _domain(text: str) -> object:
    try:
        return canonical_domain(text)
    except AddressError:
        raise ValueError("no domain such as example.org") from None


def _size(text: str) -> object:
    Size(text)
    return text  # kept as it was written


def _path(text: str) -> object:
    if not text.startswith("/"):
        raise ValueError("no absolute path")
    return text


def _count(text: str) -> object:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("no whole number")
    return int(text)


def _truth(text: str) -> object:
    if text not in _TRUTH:
        raise ValueError("expected yes or no")
    return _TRUTH[text]


_TRUTH = {"yes": True, "no": False, "true": True, "false": False}

ADDRESS = Kind("ADDRESS", _address)
DOMAIN = Kind("DOMAIN", _domain, listed=("domain list", "domain"))
TEXT = Kind("TEXT", str)
PATH = Kind("DIR", _path)
SECRET = Kind("PASSWORD", str, public=False)  # typed without echo
SIZE = Kind("SIZE", _size)
COUNT = Kind("NUMBER", _count)
DURATION = Kind("DURATION", Duration)
TRUTH = Kind("yes|no", _truth, ("yes", "no"))
FLAG = Kind("", _truth)  # an option without a value: it is there, or not
ID = Kind("ID", str)


def choice(*words: str) -> Kind:
    """One of `words`."""

    def read(text: str) -> object:
        if text not in words:
            raise ValueError("expected " + " or ".join(words))
        return text

    return Kind("|".join(words), read, words)


class Parameter(NamedTuple):
    """One thing to be said: by its place, or as an `option` by its name (`--name VALUE`, or a flag)."""

    name: str  # as a Python argument; options are written with - for _
    kind: Kind
    help: str = ""
    needed: bool = True
    many: bool = False  # any number of values, as the last place
    option: bool = False

    @property
    def written(self) -> str:
        """As an option is written."""
        return "--" + self.name.replace("_", "-")


class Scope(enum.Enum):
    """Which part of the server an operation is about; it decides who of the permitted roles may."""

    SERVER = "server"  # all of it: operators with domains of their own may not
    DOMAIN = "domain"  # the one that the arguments `domain` or `address` name, which the operator must see
    MAILBOX = "mailbox"  # likewise; and a user may for his own address
    VIEW = "view"  # the operator's part, whatever that is: the operation itself shows no more


@dataclass(frozen=True)
class Operation:
    """One operation. `run(call, **arguments)` is plain code that may block, a coroutine, or, for a `stream`,
    an asynchronous generator; it returns frozen values (`msgspec.Struct`), a list of them, or None.

    Owners may do everything; `roles` are the others who may. `changes` tells whether anything does.
    """

    words: str
    help: str
    run: Callable[..., Any]
    parameters: tuple[Parameter, ...] = ()
    roles: frozenset[Role] = frozenset()
    scope: Scope = Scope.SERVER
    changes: bool = False
    destroys: bool = False  # what a person is asked about once more
    stream: bool = False

    def allows(self, role: Role) -> bool:
        return role is Role.OWNER or role in self.roles

    @property
    def lists(self) -> bool:
        """Whether it returns a list of values, however many, and not a value."""
        return str(self.run.__annotations__["return"]).startswith("list[")

    def said_by(self, role: Role) -> tuple[Parameter, ...]:
        """What is to be said: a user does not name himself where he may do a thing for himself alone."""
        own = role is Role.USER and self.scope is Scope.MAILBOX
        return tuple(one for one in self.parameters if not (own and one.name == "address"))

    def read(self, given: Mapping[str, object]) -> dict[str, object]:
        """The arguments as `run` takes them, from texts, numbers, truths and lists. Raises Refused."""
        unknown = given.keys() - {parameter.name for parameter in self.parameters}
        if unknown:
            raise Refused(f"{self.words} knows no {next(iter(unknown))!r}"[:200])
        return {parameter.name: _read(parameter, given[parameter.name]) for parameter in self._present(given)}

    def _present(self, given: Mapping[str, object]) -> list[Parameter]:
        for parameter in self.parameters:
            if parameter.needed and given.get(parameter.name) in (None, (), []):
                raise Refused(f"{self.words} needs {parameter.kind.name} ({parameter.name})")
        return [one for one in self.parameters if given.get(one.name) is not None]


def _read(parameter: Parameter, value: object) -> object:
    if not parameter.many:
        return _read_one(parameter, value)
    if not isinstance(value, (list, tuple)) or len(value) > MOST_VALUES:
        raise Refused(f"{parameter.name}: expected a list of at most {MOST_VALUES}")
    return tuple(_read_one(parameter, one) for one in value)


def _read_one(parameter: Parameter, value: object) -> object:
    text = value
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, int) and abs(value) < 10**18:
        text = str(value)
    if not isinstance(text, str) or len(text) > MOST_OCTETS:
        raise Refused(f"{parameter.name}: expected a text of at most {MOST_OCTETS} characters")
    try:
        return parameter.kind.read(text)
    except ValueError as error:
        what = repr(text[:100]) if parameter.kind.public else "it"
        raise Refused(f"{parameter.name}: {what}: {error}") from None
