"""One session with a host, from the greeting to the point where it takes mail: EHLO, STARTTLS, AUTH.

The client's half of SMTP (RFC 5321 §3.1, §3.2; RFC 3207; RFC 4954) and LMTP (RFC 2033). A session that
stands can carry many messages. Not here: the messages (`delivery.transaction`), framing (`delivery.wire`).
"""

from __future__ import annotations

import base64
from typing import NamedTuple

from mailserver.delivery import wire
from mailserver.delivery.limits import Limits
from mailserver.delivery.replies import deferred, is_final, softened
from mailserver.delivery.security import Level, Refused, Security
from mailserver.delivery.wire import Place, TlsTrouble, Trouble
from mailserver.mail.reply import Reply


class LoginRefused(Trouble):
    """The host does not take our name and password: every host of the relay will say so."""


class Login(NamedTuple):
    """A name and its password, fresh from the secret file."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r}, ...)"


class Hop(NamedTuple):
    """A host to try: its name, one of its addresses, and how to speak with it."""

    host: str
    place: Place
    security: Security

    def __str__(self) -> str:
        return self.host if not self.place.port else f"{self.host}[{self.place.address}]:{self.place.port}"


class Manner(NamedTuple):
    """What stays the same from host to host. `hostname` is the name we go by in EHLO."""

    hostname: str
    limits: Limits
    lmtp: bool = False


class Session:
    """A session that takes mail. `extensions` maps upper-case keywords to their parameters."""

    def __init__(self, hop: Hop, manner: Manner, connection: wire.Connection) -> None:
        self.hop = hop
        self.manner = manner
        self.connection = connection
        self.extensions: dict[str, str] = {}
        self.greeting = ""
        self.messages = 0

    @property
    def secure(self) -> bool:
        return self.connection.tls is not None

    @property
    def usable(self) -> bool:
        """Whether one more message may go over it."""
        return self.connection.usable and self.messages < self.manner.limits.messages

    def offers(self, extension: str) -> bool:
        return extension in self.extensions

    async def greet(self) -> None:
        """Read the greeting and say EHLO or LHLO. Raises Trouble."""
        greeting = await self.connection.reply(self.manner.limits.greeting)
        if greeting.code != 220:
            raise await self._leave(greeting)
        self.greeting = greeting.text
        await self._hello()

    async def secure_it(self) -> None:
        """Go over to TLS as the policy says. Raises TlsTrouble, and Trouble."""
        level, name = self.hop.security.level, self.hop.security.name
        if level is Level.NONE:
            return
        if level is not Level.IMPLICIT and not await self._start_tls(level, name):
            return
        try:
            self.check_certificate()
        except Refused as refused:
            self.connection.abort()
            raise TlsTrouble(deferred("7.5", str(refused)), "check the host's TLSA records") from None
        if level is not Level.IMPLICIT:
            await self._hello()  # RFC 3207 §4.2: what was heard in clear is forgotten

    def check_certificate(self) -> None:
        """Let the policy judge what the handshake showed. Raises Refused."""
        if self.hop.security.check is not None and self.connection.tls is not None:
            self.hop.security.check(self.connection.tls)

    async def _start_tls(self, level: Level, name: str) -> bool:
        """Whether TLS stands; without it an opportunistic session goes on in clear."""
        offered = self.offers("STARTTLS")
        if offered:
            context = self.hop.security.context
            reply = await self.connection.start_tls(context, name, self.manner.limits.tls)
            if reply.code == 220:
                return True
            why = f"the host refuses STARTTLS: {reply}"
        else:
            why = "the host does not offer STARTTLS"
        if level is Level.OPPORTUNISTIC:
            return False
        await self.connection.quit(self.manner.limits.quit)
        advice = "" if offered else "the host must offer STARTTLS, or its port is another one (465: implicit)"
        raise TlsTrouble(deferred("7.4", why), advice)

    async def log_in(self, login: Login) -> None:
        """AUTH PLAIN, or LOGIN where that is all there is. Raises LoginRefused, and Trouble."""
        if not self.secure and self.hop.security.level is not Level.NONE:
            await self.connection.quit(self.manner.limits.quit)
            why = "the host has no TLS, and the password does not go out in clear text"
            raise TlsTrouble(deferred("7.11", why), "use TLS, or say tls = none if the way is safe")
        methods = self.extensions.get("AUTH", "").split()
        if "PLAIN" in methods:
            reply = await self._command("AUTH PLAIN " + _base64(f"\0{login.user}\0{login.password}"))
        elif "LOGIN" in methods:
            reply = await self._login_step("AUTH LOGIN", login)
        else:
            await self.connection.quit(self.manner.limits.quit)
            why = "the host offers no login we know (PLAIN, LOGIN)"
            raise LoginRefused(
                deferred("7.4", why), "check host and port: 587 or 465 is where logins are taken"
            )
        if not reply.positive:
            await self.connection.quit(self.manner.limits.quit)
            if is_final(reply):
                raise LoginRefused(softened(reply), "check the user's name and the secret file")
            raise Trouble(reply)

    async def _login_step(self, first: str, login: Login) -> Reply:
        reply = await self._command(first)
        for answer in (login.user, login.password):
            if reply.code != 334:
                return reply
            reply = await self._command(_base64(answer))
        return reply

    async def _hello(self) -> None:
        """EHLO, and HELO for a host that knows no extensions (RFC 5321 §3.2)."""
        hostname = self.manner.hostname
        greeting = f"{'LHLO' if self.manner.lmtp else 'EHLO'} {hostname}"
        reply, extensions = await self.connection.hello(greeting, self.manner.limits.greeting)
        self.extensions = extensions if reply.positive else {}
        if reply.permanent and not self.manner.lmtp:
            reply = await self._command(f"HELO {hostname}")
        if not reply.positive:
            raise await self._leave(reply)
        if reply.text.split(" ", 1)[0].lower() == hostname.lower():
            await self.connection.quit(self.manner.limits.quit)
            raise Trouble(
                deferred("4.6", "the host is this server itself"), "name another host than ourselves"
            )

    async def _command(self, line: str) -> Reply:
        return await self.connection.command(line, self.manner.limits.greeting)

    async def _leave(self, reply: Reply) -> Trouble:
        await self.connection.quit(self.manner.limits.quit)
        return Trouble(reply)

    async def reset(self) -> None:
        """Forget a transaction that came to nothing, or the whole connection."""
        try:
            reply = await self._command("RSET")
            if not reply.positive:
                self.connection.abort()
        except Trouble:
            return

    async def quit(self) -> None:
        await self.connection.quit(self.manner.limits.quit)


async def open_session(hop: Hop, manner: Manner, login: Login | None) -> Session:
    """A session with `hop` that takes mail. Raises Trouble.

    Where opportunistic TLS fails, the host is tried once more in clear text: nobody promised more.
    """
    try:
        return await _open(hop, manner, login)
    except TlsTrouble:
        if hop.security.level is not Level.OPPORTUNISTIC or login is not None:
            raise
        return await _open(hop._replace(security=hop.security.in_clear()), manner, None)


async def _open(hop: Hop, manner: Manner, login: Login | None) -> Session:
    implicit = hop.security.level is Level.IMPLICIT
    context = hop.security.context if implicit else None
    connection = await wire.connect(hop.place, context, hop.security.name, manner.limits.connect)
    try:
        session = Session(hop, manner, connection)
        await session.greet()
        await session.secure_it()
        if login is not None:
            await session.log_in(login)
    except BaseException:
        connection.abort()
        raise
    return session


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
