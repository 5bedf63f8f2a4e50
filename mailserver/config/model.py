"""What `mailserver.toml` may say: every setting with its kind, range and default. Values only, no reading.

The defaults stand here alone; the commented file of `template` shows the same ones (a test compares them).
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from mailserver.config.outgoing_values import (
    Allowed,
    Domains,
    Hosts,
    Lifetime,
    Rate,
    RelayName,
    Senders,
    Vouched,
    Waits,
)
from mailserver.config.values import (
    AccountName,
    Delimiter,
    DomainName,
    Duration,
    EndpointText,
    MessageSize,
    Networks,
    PathText,
    Size,
    Timeout,
)

FIXED = ("maildirs", "user", "group", "allow_root")
"""What a running server cannot change: it would be another server."""

TWISTED_UNUSABLE = "needs Twisted, which is here but cannot be imported by this account"
NEEDS_TWISTED = "needs Twisted: pip install '.[console]' in the checkout, by the pip of this environment"
"""What is said where a console is wanted and the extra is not installed."""

ListenerProtocol = Literal["smtp", "lmtp", "submission", "pop3", "telnet", "pb"]
RelayProtocol = Literal["smtp", "lmtp"]
RelayTls = Literal["none", "opportunistic", "required", "implicit"]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountFrom0 = Annotated[int, Meta(ge=0, le=1_000_000)]
CountFrom100 = Annotated[int, Meta(ge=100, le=1_000_000)]


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[listener]]`: an endpoint and what is spoken there."""

    protocol: ListenerProtocol
    endpoint: EndpointText
    proxy_from: Networks = Networks()
    """Peers that must begin with a PROXY header (v1 or v2); from all others it is refused."""
    allow_cleartext_login: bool = False
    """Logins without TLS from other machines."""
    paused: bool = False
    """Nothing new is accepted there; the place stays taken."""


class Relay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[relay]]`: hosts that carry our mail further, and which mail takes it."""

    name: RelayName
    hosts: Hosts
    protocol: RelayProtocol = "smtp"
    tls: RelayTls = "required"
    verify: bool = True
    """Of `required` and `implicit` TLS: the certificate must be one for the host's name."""
    authorities: PathText | None = None
    """A PEM file with the authorities to trust instead of the system's."""
    user: str = ""
    secret_file: PathText | None = None
    senders: Senders = Senders()
    sender_domains: Domains = Domains()
    recipient_domains: Domains = Domains()
    default: bool = False
    connections: Annotated[int, Meta(ge=1, le=1000)] = 5
    rate: Rate = Rate(0)


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: how much, how many, how long."""

    message_size: MessageSize = MessageSize("50M")
    recipients: CountFrom100 = 1000  # of one message; RFC 5321 §4.5.3.1.8: at least 100
    header_size: Size = Size("256K")
    received: CountFrom100 = 100  # RFC 5321 §6.3: more is a loop; the limit is at least 100
    connections: Count = 10_000
    connections_per_address: CountFrom0 = 500  # 0: any number
    idle_timeout: Timeout = Timeout("5m")  # SMTP and LMTP; RFC 5321 §4.5.3.2.7: at least 5 minutes
    session_timeout: Timeout = Timeout("2h")
    drain_timeout: Duration = Duration("30s")


class Pop3(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[pop3]`."""

    idle_timeout: Timeout = Timeout("10m")  # RFC 1939 §3: at least 10 minutes
    login_delay: Duration = Duration(0)  # RFC 2449 §6.5: between two logins of one user; 0: none


class Trash(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[trash]`."""

    retention: Duration = Duration("30d")


class Passwords(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[passwords]`."""

    upgrade: bool = True
    """Replace a hash of an old scheme at the next good login."""
    failure_delay: Duration = Duration("1s")


class Addresses(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[addresses]`."""

    recipient_delimiter: Delimiter = Delimiter("+")


class Submission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[submission]`: what people may send."""

    messages_per_hour: CountFrom0 = 300  # 0: any number
    messages_per_day: CountFrom0 = 2000
    recipients: CountFrom100 = 500
    hide_client: bool = False
    """Keep the client's name and address out of the message."""
    senders: Allowed = Allowed()
    accounts: Vouched = Vouched({"root": "*"})
    """Whose programs on this machine send over a UNIX socket without a login."""


class Queue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[queue]`: mail on its way to other hosts."""

    retry: Waits = Waits(["5m", "15m", "30m", "1h", "2h", "4h"])
    lifetime: Lifetime = Lifetime("5d")  # RFC 5321 §4.5.4.1: at least 4 to 5 days
    delay_notice: Duration = Duration("4h")  # 0: none
    connections: Annotated[int, Meta(ge=1, le=10_000)] = 100
    connections_per_destination: Annotated[int, Meta(ge=1, le=1000)] = 5
    rate_per_destination: Rate = Rate(0)


class Console(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[console]`: operators who are connected."""

    python: bool = False
    """Owners may run Python in the running server."""
    idle_timeout: Timeout = Timeout("30m")
    connections: Annotated[int, Meta(ge=1, le=10_000)] = 200


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file as it stands, paths still as written."""

    hostname: DomainName
    default_domain: DomainName | None = None
    maildirs: PathText = PathText("../maildirs")
    user: AccountName | None = None
    group: AccountName | None = None
    allow_root: bool = False
    workers: Annotated[int, Meta(ge=1, le=16)] | None = None
    """Processes that serve; by default one a core, at most 8."""
    log_file: PathText | None = None
    pid_file: PathText | None = None
    listeners: tuple[Listener, ...] = field(name="listener", default=())
    relays: tuple[Relay, ...] = field(name="relay", default=())
    limits: Limits = Limits()
    submission: Submission = Submission()
    queue: Queue = Queue()
    pop3: Pop3 = Pop3()
    trash: Trash = Trash()
    passwords: Passwords = Passwords()
    addresses: Addresses = Addresses()
    console: Console = Console()


class Config(Settings, frozen=True, kw_only=True):
    """Settings of one configuration directory: `directory` and every path are absolute."""

    directory: str

    @property
    def file(self) -> str:
        return os.path.join(self.directory, "mailserver.toml")

    @property
    def domains(self) -> str:
        """Where domains, users and aliases are: the root of the directory database."""
        return os.path.join(self.directory, "domains")

    @property
    def tls(self) -> str:
        """Where certificates are, `<name>/fullchain.pem` and `privkey.pem`; the default is `hostname`."""
        return os.path.join(self.directory, "tls")
