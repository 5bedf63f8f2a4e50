"""What the console talks to: the administration of this machine, or one at the other end of a connection.

Not here: either of them (`local`, `remote`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

Given = Mapping[str, object]


class Asked(NamedTuple):
    """A phrase, as it was understood: what is said in it, `secrets` to be asked for, whether it goes on and
    on, and what the person is asked first where it destroys something ('' where not)."""

    text: str
    words: str
    given: Given
    secrets: tuple[str, ...]
    stream: bool
    question: str


class Link(Protocol):
    """All methods raise Refused, or what else the command line tells in a line."""

    def who(self) -> str:
        """Name and role of the operator, for the prompt."""

    def read(self, text: str) -> Asked:
        """Understand a phrase, without carrying it out."""

    def perform(self, asked: Asked, secrets: Given) -> Any:
        """The result, as JSON has it."""

    def watch(self, asked: Asked, secrets: Given) -> Iterator[Any]:
        """The values of a stream, as they come."""

    def complete(self, text: str) -> list[str]:
        """What may stand in place of the last word."""

    def help(self, words: str) -> str:
        """What there is, or about a command."""
