"""References: what a client may call, as a set of methods; and operations of the administration as methods.

A reference has the methods it was made with and no others, so what an operator may not do is not there for
him: there is no name to guess. Not here: which references a role gets (`perspective`), calls (`broker`).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence

from twisted.spread import pb

from mailserver.admin.operation import Operation, Parameter
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role

Method = Callable[..., Awaitable[object]]
Given = dict[str, object]


class Reference(pb.Referenceable):
    """An object of ours that a client holds; `methods` by the names that it calls them.

    `topic` is the first word of the operations that are methods here, empty for the server's own; None: there
    are none.
    """

    def __init__(self, methods: Mapping[str, Method], topic: str | None = None) -> None:
        self._methods = methods
        self._topic = topic

    def method(self, name: str) -> Method:
        """Raises NoSuchMethod."""
        found = self._methods.get(name)
        if found is None:
            raise pb.NoSuchMethod("no such method")
        return found

    def words(self, name: str) -> str | None:
        """Those of the operation that a method of this name would be, whether it is there or not."""
        return None if self._topic is None else f"{self._topic} {name.replace('_', ' ')}".strip()


def begin(method: Method, args: Sequence[object], kwargs: Mapping[str, object]) -> Awaitable[object]:
    """Call a method. Raises Refused for arguments that it does not take."""
    try:
        inspect.signature(method).bind(*args, **kwargs)
    except TypeError:
        raise Refused(f"expected {_expected(method)}") from None
    return method(*args, **kwargs)


def _expected(method: Method) -> str:
    found = inspect.signature(method).parameters.values()
    names = [one.name for one in found if one.kind is one.POSITIONAL_OR_KEYWORD]
    return f"the arguments {', '.join(names)}" if names else "no arguments"


def given(
    operation: Operation, role: Role, said: Given, args: Sequence[object], kwargs: Mapping[str, object]
) -> Given:
    """What `args` by their places and `kwargs` by their names give an operation, beside what is `said`.

    Raises Refused for too many places and what is given twice; the operation itself looks at values.
    """
    together: Given = dict(said)
    places = [one for one in operation.said_by(role) if not one.option and one.name not in said]
    for name, value in (*_placed(operation, places, args), *kwargs.items()):
        if name in together:
            raise Refused(f"{name} is given twice"[:200])
        together[name] = value
    return together


def _placed(
    operation: Operation, places: Sequence[Parameter], args: Sequence[object]
) -> list[tuple[str, object]]:
    if places and places[-1].many and len(args) >= len(places):
        args = [*args[: len(places) - 1], _many(args[len(places) - 1 :])]
    if len(args) > len(places):
        raise Refused(f"{operation.words} takes {_names(places)}")
    return [(place.name, value) for place, value in zip(places, args, strict=False)]


def _many(args: Sequence[object]) -> object:
    """The last place may be filled by a list, or by all that is left."""
    return args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else list(args)


def _names(places: Sequence[Parameter]) -> str:
    return ", ".join(place.name for place in places) or "nothing in its place"
