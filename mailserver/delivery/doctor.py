"""What is wrong with a relay, in plain words: every host is visited as a message would, and none is sent.

Not here: printing (`cli`), mail that is under way (`delivery.smarthost`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Level, Security
from mailserver.delivery.session import Hop, Login, Manner, Session, open_session
from mailserver.delivery.smarthost import Smarthost
from mailserver.delivery.wire import Place, Trouble
from mailserver.pool import Pool


class Step(NamedTuple):
    """One thing that was tried: whether it went well, and a sentence about it."""

    good: bool
    text: str


async def test(relay: Relay, manner: Manner, pool: Pool) -> AsyncIterator[Step]:
    """Visit every address of the relay: connect, TLS, login. Never raises for remote trouble."""
    smarthost = Smarthost(relay, manner, pool)
    try:
        context = await smarthost.context()
        login = await smarthost.login()
    except Trouble as trouble:
        yield _trouble(f"Relay {relay.name}", trouble)
        return
    if login is not None:
        yield Step(True, f"The secret of {relay.user} can be read")
    for host in relay.hosts:
        try:
            addresses = await smarthost.addresses(host)
        except Trouble as trouble:
            yield _trouble(f"Host {host.name}", trouble)
            continue
        for address in addresses:
            hop = Hop(host.name, Place(address, host.port), Security(relay.tls, context, host.name))
            async for step in _visit(hop, host, smarthost.manner, login):
                yield step


async def _visit(hop: Hop, host: Host, manner: Manner, login: Login | None) -> AsyncIterator[Step]:
    try:
        session = await open_session(hop, manner, login)
    except Trouble as trouble:
        yield _trouble(str(hop), trouble)
        if hint := _hint(hop, host, trouble):
            yield Step(False, hint)
        return
    try:
        yield Step(True, f"{hop} answers: {session.greeting}")
        yield _tls(hop, session)
        if login is not None:
            yield Step(True, f"The login of {login.user} is accepted")
        yield Step(True, f"It offers {', '.join(sorted(session.extensions)) or 'no extensions'}")
    finally:
        await session.quit()


def _tls(hop: Hop, session: Session) -> Step:
    tls = session.connection.tls
    if tls is None:
        return Step(hop.security.level is Level.NONE, "The connection is not encrypted")
    proven = hop.security.context.check_hostname
    certificate = (
        f"the certificate is good for {hop.security.name}" if proven else "its certificate is not checked"
    )
    cipher = tls.cipher()
    return Step(
        True, f"Encrypted with {tls.version()}, {cipher[0] if cipher else 'unknown cipher'}; {certificate}"
    )


def _trouble(what: str, trouble: Trouble) -> Step:
    said = str(trouble.reply).removeprefix("0 ")
    return Step(False, f"{what}: {said}{'. To do: ' if trouble.advice else ''}{trouble.advice}")


def _hint(hop: Hop, host: Host, trouble: Trouble) -> str:
    """What usually lies behind a failure that looks like nothing in particular."""
    if trouble.reply.status == "4.4.1" and host.port == 25:
        return "Many networks block port 25: ask the relay for port 587 or 465"
    if host.port == 465 and hop.security.level is not Level.IMPLICIT:
        return "Port 465 speaks TLS from the first octet: say tls = implicit"
    if host.port in (25, 587) and hop.security.level is Level.IMPLICIT:
        return f"Port {host.port} begins in clear text: say tls = required"
    return ""
