"""A POP3 session as a state machine: a line in, an answer out (RFC 1939, 2449, 2595, 5034, 6856).

The verb table at the end is the one place that says what a client may say, when, in which form, and what
CAPA tells of it. EXPIRE is NEVER: the maildrop itself loses nothing by age; what a client deletes rests in
Trash for a time, and the answer to QUIT says how long.
Messages are sent as they are stored, also to a client that has not said UTF8: nothing in a file tells
RFC 6532 headers from old 8-bit ones, and refusing those would keep mail from every client without UTF8.
Not here: sockets and time limits (`transport.driver`), logins (`pop3.authorization`), the open maildrop
(`pop3.transaction`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import NamedTuple

from mailserver import maillog
from mailserver.pop3 import answer
from mailserver.pop3.authorization import Authorization, BadCommand
from mailserver.pop3.transaction import Transaction, Unavailable
from mailserver.transport.driver import Answer, Then

COMMAND_OCTETS = 255  # RFC 2449 §4, CRLF included
BAD_COMMANDS = 20
_TROUBLE = answer.err("Trouble with the maildrop, try again later", answer.SYS_TEMP)
_LANGUAGES = {"i-default": "Default language", "en": "English"}  # RFC 2277 §4.5


class State(enum.Enum):
    """RFC 1939 §3; UPDATE lasts no longer than the answer to QUIT."""

    AUTHORIZATION = enum.auto()
    TRANSACTION = enum.auto()
    ANY = enum.auto()


class Session:
    """One client's session. `receive` takes one line after another, never two at a time."""

    protocol = "pop3"

    def __init__(self, authorization: Authorization) -> None:
        self.authorization = authorization
        self.policy = authorization.policy
        self._bad_commands = 0
        self._ended: str | None = None

    @property
    def transaction(self) -> Transaction | None:
        return self.authorization.transaction

    @property
    def user(self) -> str:
        user = self.authorization.user
        return "" if user is None else user.address

    @property
    def may_start_tls(self) -> bool:
        return self.policy.starttls and not self.authorization.secure

    def greeting(self) -> bytes:
        return _greeting(self.policy.hostname)

    def receive(self, line: bytes) -> Answer | Awaitable[Answer]:
        """Answer one line, given without its CRLF. Bad input gets an answer, never an exception."""
        try:
            reply = self.authorization.respond(line) if self.authorization.exchange else self._command(line)
        except BadCommand as bad:
            return self._bad(str(bad))
        except Unavailable:
            return _TROUBLE
        return reply if isinstance(reply, Answer) else self._awaited(reply)

    async def _awaited(self, waiting: Awaitable[Answer]) -> Answer:
        try:
            reply = await waiting
        except BadCommand as bad:
            return self._bad(str(bad))
        except Unavailable:
            return _TROUBLE
        if reply.then is Then.CLOSE and not self._ended:
            self._ended = "failed-logins"
        return reply

    def too_long(self) -> Answer:
        self.authorization.exchange = False
        return self._bad("Line too long")

    def busy(self) -> Answer:
        return answer.err("Too busy, try again later", answer.SYS_TEMP)

    def failure(self) -> Answer:
        """After an exception nobody foresaw the state is not to be trusted: close, and change nothing."""
        self._ended = "failure"
        return answer.err("Internal trouble, try again later", answer.SYS_TEMP, Then.CLOSE)

    def timed_out(self) -> bytes:
        self._ended = "server"  # its time limit, or its own end
        return b""  # RFC 1939 §3: no response, and nothing is removed

    def tls_started(self) -> None:
        self.authorization.start_tls()

    def lost(self) -> None:
        """The connection has ended, however: release the maildrop, log the session."""
        self.authorization.close()
        self._log()

    def _command(self, line: bytes) -> Answer | Awaitable[Answer]:
        if len(line) + 2 > COMMAND_OCTETS:
            raise BadCommand("Line too long")
        word = line.partition(b" ")[0]
        verb = VERBS.get(word.upper())
        if verb is None:
            raise BadCommand("Unknown command")
        if verb.state is (State.AUTHORIZATION if self.authorization.transaction else State.TRANSACTION):
            raise BadCommand("Not in this state")
        match = verb.form.pattern.fullmatch(line, len(word))
        if match is None:
            raise BadCommand(f"Expected {word.decode().upper()}{verb.form.usage}")
        return verb.run(self, *match.groups())

    def _bad(self, text: str) -> Answer:
        self._bad_commands += 1
        if self._bad_commands < BAD_COMMANDS:
            return answer.err(text)
        self._ended = "bad-commands"
        return answer.err("Too many bad commands", then=Then.CLOSE)

    def capa(self) -> Answer:
        """RFC 2449 §5: from the verb table, so that what is told and what is done cannot differ."""
        lines = [line for verb in VERBS.values() for line in verb.tells(self)]
        return answer.listing("Capabilities follow", lines)

    def noop(self) -> Answer:
        return answer.ok("Nothing done")

    def quit(self) -> Answer | Awaitable[Answer]:
        self._ended = "quit"
        if self.transaction:
            return self.transaction.quit()
        return answer.NOTHING_DELETED

    def stls(self) -> Answer:
        if not self.may_start_tls:
            raise BadCommand("No TLS to start")
        return answer.ok("Begin TLS", Then.START_TLS)

    def utf8(self) -> Answer:
        return answer.ok("UTF8 mode")  # names are UTF-8 and messages as stored with or without it

    def lang(self, wanted: bytes | None) -> Answer:
        """RFC 6856 §3: there is one language, under two names."""
        if wanted is None:
            lines = [f"{tag} {name}" for tag, name in _LANGUAGES.items()]
            return answer.listing("Languages follow", lines)
        tag = "en" if wanted == b"*" else wanted.decode().lower()
        while tag not in _LANGUAGES and "-" in tag:
            tag = tag.rpartition("-")[0]  # RFC 4647 §3.4
        if tag not in _LANGUAGES:
            return answer.err("No such language")
        return answer.ok(f"{tag} Language selected")

    def _log(self) -> None:
        done, user = self.transaction, self.authorization.user
        totals = done.totals() if done else {}
        for name, value in totals.items():
            maillog.count(f"pop3.{name}", value)
        maillog.event(
            "session",
            protocol="pop3",
            peer=self.authorization.peer.address,
            tls="yes" if self.authorization.secure else "no",
            user=user.address if user else None,
            **totals,
            ended=self._ended or "lost",
        )


@lru_cache
def _greeting(hostname: str) -> bytes:
    return answer.ok(f"{hostname} POP3 ready").data  # no <...>: APOP is not offered


class Form(NamedTuple):
    """What follows a verb; the pattern's groups are the arguments. A space at the end does no harm."""

    usage: str
    pattern: re.Pattern[bytes]


NOTHING = Form("", re.compile(rb" *"))
TEXT = Form(" text", re.compile(rb" (.+)", re.DOTALL))  # RFC 1939 §7 PASS: spaces belong to it
NAME = Form(" name", re.compile(rb" ([^\0- ][^\0\r\n]*?) *"))
NUMBER = Form(" number", re.compile(rb" ([0-9]{1,10}) *"))
MAYBE_NUMBER = Form(" [number]", re.compile(rb"(?: ([0-9]{1,10}))? *"))
TWO_NUMBERS = Form(" number lines", re.compile(rb" ([0-9]{1,10}) ([0-9]{1,10}) *"))
SASL = Form(" mechanism [response]", re.compile(rb" ([A-Za-z0-9_-]{1,20})(?: ([A-Za-z0-9+/=]+))? *"))
LANGUAGE = Form(" [language]", re.compile(rb"(?: (\*|[A-Za-z0-9]{1,8}(?:-[A-Za-z0-9]{1,8})*))? *"))

Run = Callable[..., Answer | Awaitable[Answer]]
Tells = Callable[[Session], list[str]]


class Verb(NamedTuple):
    """One command: what it does, the state it is allowed in, its form, and its lines in CAPA."""

    run: Run
    state: State
    form: Form
    tells: Tells = lambda _: []


def _login(method: Run) -> Run:
    """A verb of the AUTHORIZATION state."""
    return lambda session, *arguments: method(session.authorization, *arguments)


def _maildrop(method: Run) -> Run:
    """A verb of the TRANSACTION state, in which there is an open maildrop."""
    return lambda session, *arguments: method(session.authorization.transaction, *arguments)


def _always(*lines: str) -> Tells:
    return lambda _: list(lines)


def _where_login_is_allowed(line: str) -> Tells:
    return lambda session: [line] if session.authorization.allowed else []


def _extensions(session: Session) -> list[str]:
    """What belongs to no single verb: RFC 2449 §6, RFC 3206 §6."""
    delay = int(session.policy.login_delay)
    told = ["RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "IMPLEMENTATION mailserver"]
    return [*told, f"LOGIN-DELAY {delay}"] if delay else told


VERBS: dict[bytes, Verb] = {
    b"CAPA": Verb(Session.capa, State.ANY, NOTHING, _extensions),
    b"STLS": Verb(
        Session.stls, State.AUTHORIZATION, NOTHING, lambda session: ["STLS"] * session.may_start_tls
    ),
    b"USER": Verb(_login(Authorization.name), State.AUTHORIZATION, NAME, _where_login_is_allowed("USER")),
    b"PASS": Verb(_login(Authorization.password), State.AUTHORIZATION, TEXT),
    b"AUTH": Verb(
        _login(Authorization.auth), State.AUTHORIZATION, SASL, _where_login_is_allowed("SASL PLAIN")
    ),
    b"UTF8": Verb(Session.utf8, State.AUTHORIZATION, NOTHING, _always("UTF8 USER")),
    b"LANG": Verb(Session.lang, State.ANY, LANGUAGE, _always("LANG")),
    b"STAT": Verb(_maildrop(Transaction.stat), State.TRANSACTION, NOTHING),
    b"LIST": Verb(_maildrop(Transaction.list), State.TRANSACTION, MAYBE_NUMBER),
    b"UIDL": Verb(_maildrop(Transaction.uidl), State.TRANSACTION, MAYBE_NUMBER, _always("UIDL")),
    b"RETR": Verb(_maildrop(Transaction.retr), State.TRANSACTION, NUMBER),
    b"TOP": Verb(_maildrop(Transaction.top), State.TRANSACTION, TWO_NUMBERS, _always("TOP")),
    b"DELE": Verb(_maildrop(Transaction.dele), State.TRANSACTION, NUMBER),
    b"RSET": Verb(_maildrop(Transaction.rset), State.TRANSACTION, NOTHING),
    b"NOOP": Verb(Session.noop, State.TRANSACTION, NOTHING),
    b"QUIT": Verb(Session.quit, State.ANY, NOTHING),
}
