"""The AUTH exchange (RFC 4954 §4): PLAIN, and LOGIN, which some mail programs know alone.

An exchange is a generator: it gives challenges, is sent the client's lines, and returns what the client
logs in with. Not here: whether that is right (`mta.authentication`), who may log in when (`submission`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from mailserver.mail.reply import Reply
from mailserver.mail.sasl import Credentials, credentials, decode, plain

CHALLENGE = Reply(334, "", "")
USERNAME = Reply(334, "", "VXNlcm5hbWU6")  # base64 of `Username:`
PASSWORD = Reply(334, "", "UGFzc3dvcmQ6")

Exchange = Generator[Reply, bytes, Credentials | None]
"""None is returned for credentials that are nobody's; Malformed is raised for what is none."""


def _plain(initial: bytes | None) -> Exchange:
    return plain((yield CHALLENGE) if initial is None else initial)


def _login(initial: bytes | None) -> Exchange:
    name = (yield USERNAME) if initial is None else initial
    password = yield PASSWORD
    return credentials(decode(name), decode(password))


_MECHANISMS: dict[str, Callable[[bytes | None], Exchange]] = {"PLAIN": _plain, "LOGIN": _login}

KEYWORD = f"AUTH {' '.join(_MECHANISMS)}"


def exchange(argument: str) -> Exchange | None:
    """The exchange an AUTH command begins; None for a mechanism that is not offered."""
    mechanism, space, response = argument.partition(" ")
    begin = _MECHANISMS.get(mechanism.upper())
    if begin is None:
        return None
    if not space:
        return begin(None)
    return begin(b"" if response == "=" else response.encode(errors="surrogateescape"))
