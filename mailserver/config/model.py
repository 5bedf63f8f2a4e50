"""What `mailserver.toml` may say: every setting with its kind, range and default. Values only, no reading.

The defaults stand here alone; the commented file of `template` shows the same ones (a test compares them).
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

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

ListenerProtocol = Literal["smtp", "lmtp", "pop3"]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountFrom100 = Annotated[int, Meta(ge=100, le=1_000_000)]


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[listener]]`: an endpoint and what is spoken there."""

    protocol: ListenerProtocol
    endpoint: EndpointText
    proxy_from: Networks = Networks()
    """Peers that must begin with a PROXY header (v1 or v2); from all others it is refused."""
    allow_cleartext_login: bool = False
    """Logins without TLS from other machines."""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: how much, how many, how long."""

    message_size: MessageSize = MessageSize("50M")
    recipients: CountFrom100 = 1000  # of one message; RFC 5321 §4.5.3.1.8: at least 100
    header_size: Size = Size("256K")
    received: CountFrom100 = 100  # RFC 5321 §6.3: more is a loop; the limit is at least 100
    connections: Count = 10_000
    connections_per_address: Annotated[int, Meta(ge=0, le=1_000_000)] = 500  # 0: any number
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
    limits: Limits = Limits()
    pop3: Pop3 = Pop3()
    trash: Trash = Trash()
    passwords: Passwords = Passwords()
    addresses: Addresses = Addresses()


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
