"""A maildrop, an authenticator and a session of them in memory: the second implementation of POP3's ports."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mailserver.directory import User
from mailserver.mail.quota import Quota
from mailserver.mta.authentication import Login, Outcome
from mailserver.pop3 import answer
from mailserver.pop3.authorization import Authorization, Policy
from mailserver.pop3.login import LastLogins
from mailserver.pop3.session import Session
from mailserver.pop3.transaction import Gone, InUse, Removal, Unavailable
from mailserver.transport.driver import Answer
from mailserver.transport.listener import Peer

LOOPBACK = Peer("127.0.0.1", 40000, None, False)
ANN = User("ann", "example.test", "", Quota(), True)
PASSWORD = "open sesame"


def user(name: str) -> User:
    return User(name, "example.test", "", Quota(), True)


def policy(**changes: object) -> Policy:
    given = {
        "hostname": "mail.example.test",
        "starttls": False,
        "allow_cleartext": False,
        "login_delay": 0.0,
        "trash_retention": 14 * 86400.0,
    }
    return Policy(**(given | changes))  # type: ignore[arg-type]


class MemoryMailbox:
    """Messages in wire form (CRLF) by unique id; what several sessions share."""

    def __init__(self, messages: Sequence[bytes] = ()) -> None:
        self.messages = {f"uid-{n}": message for n, message in enumerate(messages, 1)}
        self.trash: dict[str, bytes] = {}
        self.stuck: set[str] = set()
        self.permanent = False
        self.trouble = False
        self.holder: MemoryMaildrop | None = None

    def open(self) -> MemoryMaildrop:
        if self.trouble:
            raise Unavailable
        if self.holder:
            raise InUse
        self.holder = MemoryMaildrop(self)
        return self.holder


class MemoryMaildrop:
    def __init__(self, mailbox: MemoryMailbox) -> None:
        self._mailbox = mailbox
        self._ids = list(mailbox.messages)
        self.sizes: Sequence[int] = [len(message) for message in mailbox.messages.values()]

    def unique_ids(self) -> Sequence[str]:
        self._check()
        return self._ids

    def at_hand(self, number: int) -> Answer | None:
        return None

    async def retrieve(self, number: int) -> Answer:
        return _content(b"%d octets" % self.sizes[number - 1], self._lines(number))

    async def top(self, number: int, lines: int) -> Answer:
        held = self._lines(number)
        end = held.index(b"\r\n") + 1 if b"\r\n" in held else len(held)
        return _content(b"Top of message follows", held[: end + lines])

    async def discard(self, numbers: Collection[int]) -> Removal:
        self._check()
        failed = 0
        for unique in (self._ids[number - 1] for number in numbers):
            if unique in self._mailbox.stuck:
                failed += 1
            elif unique in self._mailbox.messages:
                self._mailbox.trash[unique] = self._mailbox.messages.pop(unique)
        return Removal(failed, self._mailbox.permanent)

    def close(self) -> None:
        if self._mailbox.holder is self:
            self._mailbox.holder = None

    def _check(self) -> None:
        if self._mailbox.trouble:
            raise Unavailable

    def _lines(self, number: int) -> list[bytes]:
        self._check()
        try:
            message = self._mailbox.messages[self._ids[number - 1]]
        except KeyError:
            raise Gone from None
        lines = message.split(b"\r\n")
        return [line + b"\r\n" for line in lines[:-1]] + ([lines[-1] + b"\r\n"] if lines[-1] else [])


def _content(text: bytes, lines: list[bytes]) -> Answer:
    return answer.content(text, b"".join(map(_stuffed, lines)) + b".\r\n")


def _stuffed(line: bytes) -> bytes:
    return b"." + line if line.startswith(b".") else line


class MemoryAuthenticator:
    """Everybody of example.test has the same password; `outcome` overrides the answer."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, str, str, str]] = []

    async def login(self, name: str, password: str, source: str, protocol: str) -> Login:
        self.asked.append((name, password, source, protocol))
        if self.outcome:
            return Login(self.outcome, None)
        local, _, domain = name.partition("@")
        if password != PASSWORD or local == "nobody" or domain not in ("", "example.test"):
            return Login(Outcome.WRONG, None)
        return Login(Outcome.OK, user(local))


async def answered(session: Session, line: bytes) -> Answer:
    """The answer to a line, at once or later."""
    reply = session.receive(line)
    return reply if isinstance(reply, Answer) else await reply


def memory_session(
    mailbox: MemoryMailbox,
    peer: Peer = LOOPBACK,
    authenticator: MemoryAuthenticator | None = None,
    last_logins: LastLogins | None = None,
    **changes: object,
) -> Session:
    """A session for whose users there is one mailbox."""

    async def open_maildrop(_: User) -> MemoryMaildrop:
        return mailbox.open()

    return Session(
        Authorization(
            peer,
            policy(**changes),
            authenticator or MemoryAuthenticator(),
            last_logins or LastLogins(),
            open_maildrop,
        )
    )
