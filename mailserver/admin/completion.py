"""Completion of a phrase that is being typed: what may stand where it ends, for a role.

Not here: values such as domains; the caller gives them, from the administration as that operator.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterable

from mailserver.admin import phrases
from mailserver.admin.operation import ADDRESS, Parameter
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role

MOST = 200  # that are offered

Suggest = Callable[[Parameter, str], Awaitable[Iterable[str]]]
"""Values of a parameter that begin with a text, as `Administration.suggest` knows them."""


async def complete(text: str, role: Role, suggest: Suggest) -> list[str]:
    """The words that may stand in place of the last one of `text`, as they are typed, at most `MOST`.

    Nothing for what is no phrase. After a blank, a new word begins.
    """
    if len(text) > phrases.MOST or not text.isprintable():
        return []
    try:
        words = phrases.split(text)
        begun = words.pop() if words and not text.endswith(" ") else ""
        found = await _candidates(words, begun, role, suggest)
    except Refused:
        return []
    fitting = sorted({shlex.quote(one) for one in found if one.startswith(begun)})
    return fitting[:MOST]


async def _candidates(words: list[str], begun: str, role: Role, suggest: Suggest) -> list[str]:
    found = phrases.following(words, role)
    reading = phrases.begin(words, role)
    if reading is None:
        return found
    if reading.waits is not None:
        return await _values(reading.waits, begun, suggest)
    place = reading.place
    if place is None or begun.startswith("-"):
        return [*found, *reading.open_options]
    options = [] if place.needed else reading.open_options
    return [*found, *options, *await _values(place, begun, suggest)]


async def _values(parameter: Parameter, begun: str, suggest: Suggest) -> list[str]:
    if parameter.kind.choices:
        return list(parameter.kind.choices)
    return list(await suggest(parameter, begun))


async def suggested(
    parameter: Parameter, begun: str, listed: Callable[[str, str], Awaitable[list[str]]]
) -> list[str]:
    """Values that a parameter may have; `listed` gives a field of all that an operation lists."""
    if parameter.kind is ADDRESS:
        local, at, _ = begun.rpartition("@")
        return [f"{local}@{domain}" for domain in await listed("domain list", "domain")] if at else []
    return await listed(*parameter.kind.listed) if parameter.kind.listed else []
