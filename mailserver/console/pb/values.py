"""Jelly, as far as it is let in and out: texts, numbers, truths, nothing, lists, tuples and dictionaries.

What comes in is read here, and not by Twisted's reader, which makes what a tag asks for: classes that other
modules registered, cycles, half-made references that fail when they are forgotten. Seven forms are known;
nothing else has a meaning. What goes out is written by Twisted under an allow list. Values are copied; the
one thing that stays tied to the other side is a reference of the client's, for a stream.
Not here: octets (`octets`), references of ours (`references`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twisted.spread import jelly, pb

from mailserver.console.pb.octets import Expression

Value: TypeAlias = object  # str, int, bool, None, list, tuple, dict of them, or a pb.RemoteReference


class NotAllowed(ValueError):
    """A value of a kind that is not taken, or none at all; the text is for the client."""


ALLOWED = "only texts, whole numbers, True, False, None, lists, tuples and dictionaries are taken"


def read(expression: Expression, refer: Callable[[int], object]) -> Value:
    """The value of an expression; `refer` makes a reference of the client's number for it.

    Raises NotAllowed. The depth is bounded by `octets.DEPTH`.
    """
    match expression:
        case int():
            return expression
        case bytes() | [b"unicode", bytes()]:
            return _text(expression if isinstance(expression, bytes) else expression[1])
        case [b"None"]:
            return None
        case [b"boolean", b"true" | b"false" as truth]:
            return truth == b"true"
        case [b"list", *items]:
            return [read(item, refer) for item in items]
        case [b"tuple", *items]:
            return tuple(read(item, refer) for item in items)
        case [b"dictionary", *pairs]:
            return dict(_pair(pair, refer) for pair in pairs)
        case [b"remote", int(number)]:
            return refer(number)
    raise NotAllowed(ALLOWED)


def _text(octets: object) -> str:
    assert isinstance(octets, bytes)
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise NotAllowed("a text is not in UTF-8") from None


def _pair(expression: Expression, refer: Callable[[int], object]) -> tuple[str, Value]:
    match expression:
        case [key, value]:
            name = read(key, refer)
            if isinstance(name, str):
                return name, read(value, refer)
    raise NotAllowed("the keys of a dictionary are texts")


class Allowed(jelly.SecurityOptions):
    """What Twisted may write: plain values, and the classes of ours that say themselves how they are copied.

    `SecurityOptions` of its own lets every name with a dot pass; this is a list and nothing else.
    """

    TYPES = frozenset(
        f"builtins.{name}".encode()
        for name in ("str", "int", "float", "bool", "NoneType", "list", "tuple", "dict", "bytes")
    )

    def isTypeAllowed(self, typeName: bytes) -> bool:
        return typeName in self.TYPES


class Refused(pb.Error):
    """What could not be done, and why, in one line: the only error that tells a client anything."""


def failure(error: Exception) -> pb.CopyableFailure:
    """An error as it crosses: its class and its text; it was never raised, so it knows no place or trace."""
    return pb.CopyableFailure(error)
