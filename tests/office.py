"""A post office for tests: the directory, mailboxes and reception of a server, without listeners.

The real parts on a real file system; only the network is left out.
"""

from __future__ import annotations

from pathlib import Path

from mailserver.directory import Directory
from mailserver.durable.commit import Committer
from mailserver.mta.reception import Reception
from mailserver.mta.routing import Mailboxes, Routing
from mailserver.pool import Pool
from mailserver.queue.spool import Spool
from mailserver.smtp.server import Session, Site, Timeouts
from mailserver.smtp.transaction import Policy
from mailserver.transport.driver import Connections
from mailserver.transport.listener import Peer

HASH = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$mtOEJFQDgD7LjAxMnAzZ0Q"

# One domain with people, aliases that fork, loop and lead away, and one domain for each kind of catch-all.
CONFIGURATION = {
    "example.test/users/ann": HASH,
    "example.test/users/bob": HASH,
    "example.test/users/postmaster": HASH,
    "example.test/users/full": f"{HASH}\nquota = 100\n",
    "example.test/users/small": f"{HASH}\nquota = 3K\n",
    "example.test/users/off": f"{HASH}\nenabled = no\n",
    "example.test/users/broken": "no hash at all\nwhat = ever\n",
    "example.test/users/a%20b": HASH,
    "example.test/users/ann+exact": HASH,
    "example.test/aliases/team": "ann\nbob@example.test\n",
    "example.test/aliases/everybody": "team\ncarl@xn--bcher-kva.example\n",
    "example.test/aliases/loop": "pool\n",
    "example.test/aliases/pool": "loop\n",
    "example.test/aliases/loopann": "loopann\nann\n",
    "example.test/aliases/away": "somebody@elsewhere.test\n",
    "example.test/aliases/gone": "nobody\n",
    "example.test/aliases/halfgone": "nobody\nann\n",
    "xn--bcher-kva.example/users/carl": HASH,
    "catch.test/domain.toml": 'catch_all = "all"\n',
    "catch.test/users/all": HASH,
    "catch.test/users/real": HASH,
    "catch.test/aliases/alias": "real\n",
    "bounce.test/domain.toml": "undeliverable_to_postmaster = true\n",
    "bounce.test/users/postmaster": HASH,
}


class Office:
    """The parts, in `root`; `close()` ends their threads."""

    def __init__(self, root: Path) -> None:
        self.mail = root / "maildirs"
        self.staging = self.mail / ".queue" / "tmp"
        self.staging.mkdir(parents=True)
        for name, text in CONFIGURATION.items():
            file = root / "domains" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.pool = Pool("storage", 2, 100)
        self.committer = Committer(str(self.staging))
        self.directory = Directory(str(root / "domains"))
        self.mailboxes = Mailboxes(str(self.mail))
        self.routing = Routing(self.directory, self.mailboxes, self.pool, "example.test", "+")
        self.spool = Spool(str(self.mail / ".queue"))
        self.spool.prepare()
        self.reception = Reception(str(self.staging), self.committer, self.pool, self.spool)
        self.connections = Connections()

    def session(
        self,
        *,
        peer: str = "192.0.2.1",
        secure: bool = False,
        timeouts: Timeouts | None = None,
        **policy: object,
    ) -> Session:
        site = Site(
            Policy("mx.example.test", **policy),  # type: ignore[arg-type]
            self.routing,
            self.reception,
            self.connections,
            timeouts or Timeouts(),
            tls=lambda: None,  # type: ignore[arg-type,return-value]
        )
        return Session(site, Peer(peer, 40000, None, secure))

    def messages(self, address: str) -> list[Path]:
        """What is in a user's `new`."""
        local, _, domain = address.partition("@")
        return sorted((self.mail / (domain or "example.test") / local / "new").glob("*"))

    def staged(self) -> list[Path]:
        return list(self.staging.iterdir())

    def close(self) -> None:
        self.committer.close()
        self.pool.close()


def content(file: Path) -> bytes:
    """A stored message without the trace header on top."""
    return without_trace(file.read_bytes())


def without_trace(text: bytes) -> bytes:
    start = text.index(b"\n", text.index(b"Received: ")) + 1
    while text[start : start + 1] in (b"\t", b" "):
        start = text.index(b"\n", start) + 1
    return text[start:]
