"""What is said to an operator at a terminal: log in, then phrases and their results, until he leaves.

Not here: how lines come in and go out (`terminal`), what phrases there are (`admin.phrases`), Python
(`manhole`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from mailserver import __version__, maillog
from mailserver.admin import phrases
from mailserver.admin.completion import complete
from mailserver.admin.operation import Parameter
from mailserver.admin.phrases import Phrase
from mailserver.admin.refused import Refused, told
from mailserver.admin.roles import Operator, Role
from mailserver.admin.sentences import outcome, question
from mailserver.console import manhole, tables
from mailserver.console.desk import FrontDesk
from mailserver.console.terminal import Interrupted, Terminal
from mailserver.pool import Busy
from mailserver.transport.listener import Peer

FRONT = "telnet"
GUESSES = 3  # wrong passwords of one connection
NAME = 320  # characters of a login name
SHOWN = 40  # characters of a name in the prompt
REMEMBERED = 200  # phrases for the arrow keys
PATIENCE = 0.5  # seconds in which a telnet client answers our first question; else it is none

LOCAL = {
    "help": "What there is; help WORDS: about a command.",
    "logout": "Leave; so does Ctrl-D.",
}
PYTHON = {"python": "A Python prompt in the process of the consoles."}


async def converse(desk: FrontDesk, terminal: Terminal, peer: Peer, admit: Callable[[str], bool]) -> None:
    """A whole dialogue; `admit` is told the operator's name once he has one, and says if he may stay."""
    try:
        async with asyncio.timeout(PATIENCE):
            await terminal.known.wait()
    except TimeoutError:
        terminal.edit(False)
    try:
        operator = await _arrive(desk, terminal, peer)
        if operator is not None and admit(operator.name):
            await _Phrases(desk, terminal, operator).run()
        elif operator is not None:
            terminal.say([f"Too many connections of {operator.name}."])
    except EOFError:
        return


async def _arrive(desk: FrontDesk, terminal: Terminal, peer: Peer) -> Operator | None:
    """Who it is: by the account of the process at the other end of a UNIX socket, or by a password."""
    operator = _of_account(desk, peer)
    guesses = 0
    while operator is None:
        if not (peer.secure or peer.is_local):
            terminal.say(["A password is taken over TLS alone."])
            return None
        name, password = await _credentials(terminal)
        wrong = "Wrong name or password."
        try:
            operator = await desk.operators.authenticate(name, password, peer.address)
        except Busy:
            wrong = "Too busy, try again later."
        if operator is None:
            guesses += 1
            terminal.say([wrong])
            if guesses >= GUESSES:
                return None
    return operator


def _of_account(desk: FrontDesk, peer: Peer) -> Operator | None:
    operator = None if peer.uid is None else desk.operators.of_uid(peer.uid)
    if operator is not None:
        maillog.event(
            "login", outcome="ok", user=operator.name, peer=peer.address, uid=peer.uid, protocol="console"
        )
    return operator


async def _credentials(terminal: Terminal) -> tuple[str, str]:
    while True:
        try:
            name = (await terminal.ask("Login: ")).strip()[:NAME]
            if name:
                return name, await terminal.ask_secret("Password")
        except Interrupted:
            continue


class _Phrases:
    """The dialogue of an operator who has logged in."""

    def __init__(self, desk: FrontDesk, terminal: Terminal, operator: Operator) -> None:
        self._desk = desk
        self._administration = desk.administration
        self._terminal = terminal
        self._operator = operator
        self._history: deque[str] = deque(maxlen=REMEMBERED)

    async def run(self) -> None:
        role = self._operator.role.value
        host = self._administration.config.hostname
        self._terminal.say(
            [f"Mail server {__version__} on {host}. You are {self._operator.name}, {role}; try help."]
        )
        while self._is_current():
            try:
                line = await self._terminal.ask(
                    self._prompt, history=tuple(self._history), complete=self._complete
                )
                if line.strip() == "logout":
                    return
                await self._obey(line.strip())
            except Interrupted:
                continue
        self._terminal.say(["You are no operator any more."])

    @property
    def _prompt(self) -> str:
        return f"{tables.plain(self._operator.name[:SHOWN])} {self._operator.role.value}> "

    def _is_current(self) -> bool:
        """Whether he is an operator still; he may have become another one."""
        current = self._administration.operators.current(self._operator)
        self._operator = current or self._operator
        return current is not None

    async def _obey(self, line: str) -> None:
        if not line:
            return
        if not self._history or self._history[-1] != line:
            self._history.append(line)
        word, _, rest = line.partition(" ")
        if word == "help":
            self._help(rest)
        elif line == "python" and self._may_python:
            await manhole.prompt(self._terminal, self._operator, self._inside, self._still_may_python)
        else:
            await self._phrase(line)

    def _still_may_python(self) -> bool:
        return self._is_current() and self._may_python

    @property
    def _may_python(self) -> bool:
        return self._operator.role is Role.OWNER and self._desk.settings().python

    @property
    def _local(self) -> dict[str, str]:
        return LOCAL | PYTHON if self._may_python else LOCAL

    @property
    def _inside(self) -> dict[str, object]:
        """What the Python prompt finds: `await perform("domain list")` is a phrase with its values."""

        async def perform(text: str) -> object:
            phrase = self._read(text, "python")
            return await self._administration.perform(
                self._operator, "python", phrase.operation.words, phrase.given
            )

        return {
            "application": self._administration,
            "operator": self._operator,
            "connections": self._desk.connections,
            "perform": perform,
        }

    # ---- phrases

    def _read(self, text: str, front: str) -> Phrase:
        """Raises Refused, of which the log tells."""
        try:
            return phrases.parse(text, self._operator.role)
        except Refused:
            self._administration.refuse(self._operator, front, phrases.meant(text))
            raise

    async def _phrase(self, line: str) -> None:
        try:
            phrase = self._read(line, FRONT)
        except Refused as error:
            self._terminal.say([told(error)])
            return
        for secret in phrase.secrets:
            if not await self._ask_secret(phrase, secret):
                return
        if phrase.operation.destroys and not await self._is_sure(phrase):
            self._terminal.say(["nothing was done"])
            return
        if phrase.operation.stream:
            await self._terminal.until_interrupted(self._watch(phrase))
        else:
            await self._perform(phrase)

    async def _ask_secret(self, phrase: Phrase, secret: Parameter) -> bool:
        name = secret.help or secret.name.capitalize()
        first = await self._terminal.ask_secret(name)
        if secret.name != "old" and first != await self._terminal.ask_secret(f"{name} again"):
            self._terminal.say(["these differ: nothing was done"])
            return False
        phrase.given[secret.name] = first
        return True

    async def _is_sure(self, phrase: Phrase) -> bool:
        asked = question(phrase.operation.words, phrase.given)
        self._terminal.say(tables.folded(tables.plain(asked), self._terminal.window))
        return (await self._terminal.ask("Type yes to go on: ")).strip() == "yes"

    async def _perform(self, phrase: Phrase) -> None:
        try:
            result = await self._administration.perform(
                self._operator, FRONT, phrase.operation.words, phrase.given
            )
        except Exception as error:
            self._terminal.say([told(error)])
            return
        words, window = phrase.operation.words, self._terminal.window
        done = outcome(words, phrase.given, msgspec.to_builtins(result)) if phrase.operation.changes else []
        said = [part for line in done for part in tables.folded(tables.plain(line), window)]
        for page in [said] if said else tables.pages(result, window):
            self._terminal.say(page)
            await self._terminal.flush()

    async def _watch(self, phrase: Phrase) -> None:
        rolling = tables.Rolling()
        watched = self._administration.watch(self._operator, FRONT, phrase.operation.words, phrase.given)
        async with aclosing(cast(AsyncGenerator[Any, None], watched)) as values:
            while True:
                try:
                    value = await anext(values)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    self._terminal.say([told(error)])
                    return
                self._terminal.say(rolling.lines(value))
                await self._terminal.flush()

    # ---- help

    def _help(self, words: str) -> None:
        found = self._local.get(words.strip())
        lines = phrases.help(self._operator.role, words).splitlines() if found is None else [found]
        if not words.strip():
            width = max(map(len, self._local))
            lines += ["", *(f"{name:<{width}}  {text}" for name, text in self._local.items())]
        self._terminal.say(part for line in lines for part in tables.folded(line, self._terminal.window))

    async def _complete(self, text: str) -> Sequence[str]:
        word, blank, rest = text.lstrip().partition(" ")
        helping = word == "help" and blank
        found = await complete(rest if helping else text, self._operator.role, self._suggest)
        if not blank:
            found += [name for name in self._local if name.startswith(word)]
        return sorted(found)

    async def _suggest(self, parameter: Parameter, begun: str) -> list[str]:
        return await self._administration.suggest(self._operator, FRONT, parameter, begun)
