"""The post office with mail that leaves: a queue, forwarding, and a listener for submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from destinations import queued_content
from office import CONFIGURATION, HASH, Office

from mailserver.directory import User
from mailserver.mail.address import Address
from mailserver.mail.quota import Quota
from mailserver.mail.srs import Srs
from mailserver.mta.allowance import Allowance
from mailserver.mta.authentication import Login, Outcome
from mailserver.mta.forwarding import Forwarding
from mailserver.mta.posting import Posting
from mailserver.mta.routing import Routing
from mailserver.mta.senders import Senders
from mailserver.queue.entry import Entry
from mailserver.smtp.server import Session, Site
from mailserver.smtp.submission import Submission
from mailserver.smtp.transaction import Policy
from mailserver.transport.listener import Peer

PASSWORD = "open sesame"
ROOT, TRUSTED, BOB, NOBODY = 0, 8, 1001, 65534  # uids on the UNIX socket

# Aliases that lead away, besides those of the office.
FORWARDING = {
    "example.test/aliases/keep": "ann\ncopy@elsewhere.test\n",
    "example.test/aliases/two": "one@elsewhere.test\ntwo@other.test\n",
    "example.test/aliases/nested": "away\n",
    "example.test/aliases/both": "away\nkeep\nbob\n",
    "xn--bcher-kva.example/aliases/fort": "carl@elsewhere.test\n",
    "away.test/domain.toml": 'catch_all = "boss@elsewhere.test"\n',
    "away.test/users/real": HASH,
}
PEOPLE = CONFIGURATION | FORWARDING


class MemoryAuthenticator:
    """Everybody's password is `open sesame`; some names stand for trouble."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    async def login(self, name: str, password: str, source: str, protocol: str) -> Login:
        self.asked.append((name, source, protocol))
        local, _, domain = name.partition("@")
        trouble = Outcome.__members__.get(local.upper())
        if trouble is not None:
            return Login(trouble)
        if password != PASSWORD or domain != "example.test":
            return Login(Outcome.WRONG)
        return Login(Outcome.OK, User(local, domain, "", Quota(), True))


class Outbound(Office):
    """`clock` gives UNIX time for return addresses."""

    def __init__(self, root: Path, *, now: float = 1_700_000_000.0, queue: bool = True) -> None:
        super().__init__(root)
        for name, text in FORWARDING.items():
            file = root / "domains" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.now = now
        self.announced: list[str] = []
        self.authenticator = MemoryAuthenticator()
        self.forwarding = Forwarding(self.directory, Srs(b"a secret of enough octets"), lambda: self.now)
        if queue:
            self.routing = Routing(
                self.directory, self.mailboxes, self.pool, "example.test", "+", self.forwarding
            )
            self.reception.queued = lambda entry: self.announced.append(entry.id)
        self.posting = Posting(self.routing, self.reception)

    def submission(
        self,
        *,
        peer: Peer,
        hourly: int = 0,
        daily: int = 0,
        hide_client: bool = False,
        others: Mapping[str, Sequence[str]] | None = None,
        **policy: object,
    ) -> Session:
        rules = Submission(
            self.authenticator,
            Senders(self.routing, "mx.example.test", others),
            Allowance(hourly, daily),
            hide_client,
            {ROOT: None, TRUSTED: None, BOB: Address("bob", "example.test")},
        )
        site = Site(
            Policy("mx.example.test", **policy),  # type: ignore[arg-type]
            self.routing,
            self.reception,
            self.connections,
            tls=lambda: None,  # type: ignore[arg-type,return-value]
            submission=rules,
        )
        return Session(site, peer)

    def entries(self) -> list[Entry]:
        """What is in the queue, in the order of ids."""
        return [
            self.spool.load(entry_id) for entry_id in sorted(entry_id for entry_id, _ in self.spool.ids())
        ]

    def queued_content(self, entry: Entry) -> bytes:
        return queued_content(self.spool, entry)
