"""What is typed at the console and what is shown for it, phrase by phrase.

Not here: what phrases do (`link`), where lines come from (`lines`).
"""

from __future__ import annotations

from collections.abc import Callable

import click

from mailserver.admin.sentences import outcome
from mailserver.cli import output
from mailserver.cli.console.link import Asked, Link

Secret = Callable[[str], str]
"""Asks for what stands in no phrase, by its name."""


class Dialogue:
    """Phrases of one person. `secret` asks, `sure` is asked before something is destroyed."""

    def __init__(self, link: Link, secret: Secret, sure: Callable[[str], None], as_json: bool) -> None:
        self._link = link
        self._secret = secret
        self._sure = sure
        self._as_json = as_json

    def obey(self, line: str) -> None:
        """Carry out a line and show what comes of it. Raises Refused, click.Abort, what the link raises."""
        line = line.strip()
        word, _, rest = line.partition(" ")
        if word == "help":
            click.echo(self._link.help(rest))
        elif word:
            self._phrase(self._link.read(line))

    def _phrase(self, asked: Asked) -> None:
        if asked.question:
            self._sure(asked.question)
        secrets = {name: self._secret(name) for name in asked.secrets}
        if asked.stream:
            printer = output.Stream(self._as_json)
            for value in self._link.watch(asked, secrets):
                printer.show(value)
            return
        result = self._link.perform(asked, secrets)
        output.result(result, outcome(asked.words, asked.given, result), self._as_json)
