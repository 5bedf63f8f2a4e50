"""The office as a server of its own process, with listeners of every kind.

Mail for other hosts stays in its queue: the relay refuses every connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import serving
from office import HASH
from outbound import BOB, PEOPLE, TRUSTED
from wire import endpoint

from mailserver.directory import Directory
from mailserver.mail.srs import Srs
from mailserver.mta.forwarding import Forwarding
from mailserver.queue.spool import Spool
from mailserver.server.state import srs_key

SETTINGS = """\
[[relay]]
name = "nobody"
hosts = ["127.0.0.1:{nobody}"]
tls = "none"
default = true
[limits]
message_size = "100000"
recipients = 100
[submission]
recipients = 100
messages_per_hour = {hourly}
accounts = {{ root = "*", {trusted} = "*", {bob} = "bob@example.test" }}
senders = {{ {senders} }}
"""


class StartedOffice:
    """`places` are by protocol and kind of connection. `hourly`: messages a user may send, 0 for any number;
    `others`: senders given to users."""

    def __init__(
        self, site: serving.Site, hourly: int = 0, others: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.site = site
        self.spool = Spool(str(site.mail / ".queue"))
        self.places: dict[tuple[str, str], int | Path] = {}
        for name in ("smtp", "lmtp", "submission"):
            for kind in ("plain", "tls", "unix"):
                place = site.root / f"{name}.sock" if kind == "unix" else site.ports.take()
                self.places[name, kind] = place
            self.places[name, "starttls"] = self.places[name, "plain"]
        senders = ", ".join(f'"{user}" = {given}' for user, given in (others or {}).items())
        site.configure(
            [
                (name, endpoint(kind, place))
                for (name, kind), place in self.places.items()
                if kind != "starttls"
            ],
            SETTINGS.format(
                nobody=site.ports.take(), hourly=hourly, senders=senders, trusted=TRUSTED, bob=BOB
            ),
            users=[],
        )
        site.root.chmod(0o755)
        for name, text in PEOPLE.items():
            site.write(f"domains/{name}", text.replace(HASH, serving.HASH))

    @property
    def forwarding(self) -> Forwarding:
        directory = Directory(str(self.site.config / "domains"))
        return Forwarding(directory, Srs(srs_key(str(self.site.mail))))

    @contextlib.contextmanager
    def enabled(self, user: str) -> Iterator[None]:
        """Somebody who may log in meanwhile, whatever he may afterwards."""
        name = f"domains/example.test/users/{user}"
        self.site.write(name, serving.HASH)
        yield
        if text := PEOPLE.get(name.removeprefix("domains/")):
            self.site.write(name, text.replace(HASH, serving.HASH))
        else:
            (self.site.config / name).unlink()

    def clear(self) -> None:
        for mailbox in self.site.mail.glob("[!.]*/*"):
            self.site.empty(f"{mailbox.name}@{mailbox.parent.name}")
