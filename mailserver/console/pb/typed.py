"""Phrases over Perspective Broker: what a person types at `mailserver console` on another machine.

One grammar for all front ends (`admin.phrases`); here it is methods. Not here: the program that the person
sits at (`cli`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mailserver.admin import phrases
from mailserver.admin.completion import complete
from mailserver.admin.operation import Parameter
from mailserver.admin.phrases import Phrase
from mailserver.admin.refused import Refused
from mailserver.admin.sentences import question
from mailserver.console.pb.references import Method
from mailserver.console.pb.view import FRONT, View


def methods(view: View) -> Mapping[str, Method]:
    """The methods of a perspective that are about phrases."""
    role = view.operator.role

    def read(text: object) -> Phrase:
        with view.refusing(phrases.meant(text) if isinstance(text, str) else None):
            return phrases.parse(_text(text), role)

    async def phrase(text: object, given: object = None, observer: object = None) -> object:
        """Carry a phrase out, with what is not said in it (secrets) by name; `observer` is for streams."""
        operation, said = read(text)
        with view.refusing(operation.words):
            said = {**said, **_names(given)}
            if operation.stream:
                return view.streams.subscribe(observer, view.watch(operation, said))
        return await view.perform(operation, said)

    async def asks(text: object) -> object:
        """How the phrase is understood: what is to be asked for, whether it is a stream, and the question
        before what destroys."""
        asked = read(text)
        operation = asked.operation
        return {
            "words": operation.words,
            "given": msgspec.to_builtins(asked.given),
            "secrets": [one.name for one in asked.secrets],
            "stream": operation.stream,
            "question": question(operation.words, asked.given) if operation.destroys else "",
        }

    async def completions(text: object) -> object:
        return await complete(_text(text), role, suggest)

    async def suggest(parameter: Parameter, begun: str) -> list[str]:
        return await view.administration.suggest(view.operator, FRONT, parameter, begun)

    async def help(words: object = "") -> object:
        return phrases.help(role, _text(words))

    return {"phrase": phrase, "asks": asks, "complete": completions, "help": help}


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > phrases.MOST:
        raise Refused(f"expected a phrase of at most {phrases.MOST} characters")
    return value


def _names(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("expected a dictionary of what is given")
    return value
