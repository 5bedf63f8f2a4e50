"""What is served, built from one configuration: which protocol a connection to a listener speaks.

Not here: listeners, and the life of the process around them (`server.worker`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from ssl import SSLContext

from mailserver.config import outgoing
from mailserver.config.model import Config, Listener
from mailserver.config.routes import routing
from mailserver.directory import Directory
from mailserver.durable.commit import Committer
from mailserver.mta.allowance import Allowance
from mailserver.mta.authentication import Authenticator
from mailserver.mta.counts import Counts
from mailserver.mta.reception import Reception
from mailserver.mta.routing import Mailboxes
from mailserver.mta.senders import Senders
from mailserver.pool import Pool
from mailserver.pop3 import LINE_LIMIT, LastLogins, Pop3
from mailserver.pop3 import Policy as Pop3Policy
from mailserver.queue.spool import Spool
from mailserver.server.state import srs_key
from mailserver.smtp import server as smtp
from mailserver.smtp.submission import Submission
from mailserver.smtp.transaction import Policy as SmtpPolicy
from mailserver.transport.driver import Connections, Driver, Timeouts
from mailserver.transport.listener import Limits, Peer
from mailserver.transport.tls import Certificates

HANDSHAKE = 30.0  # seconds for TLS and PROXY before a session begins

# What a client over the connection limits is told.
REFUSALS = {
    "smtp": smtp.TOO_MANY_CONNECTIONS.encode(),
    "lmtp": smtp.TOO_MANY_CONNECTIONS.encode(),
    "submission": smtp.TOO_MANY_CONNECTIONS.encode(),
    "pop3": b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
}

Factory = Callable[[Peer], asyncio.Protocol]


class Services:
    """The protocols of one configuration, with the threads behind them; needs the state directories."""

    def __init__(
        self,
        config: Config,
        staging: str,
        certificates: Certificates,
        last_logins: LastLogins | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._config = config
        self._certificates = certificates
        self._hashing = Pool("hash", threads=os.cpu_count() or 1, waiting=256)
        self.storage = Pool("storage", threads=8, waiting=4096)
        self._committer = Committer(staging)
        self.spool = Spool(os.path.join(config.maildirs, ".queue"))
        self.reception = Reception(staging, self._committer, self.storage, self.spool)
        self.directory = Directory(config.domains)
        self.mailboxes = Mailboxes(config.maildirs)
        self.connections = Connections()
        self.inside = Connections()  # of other processes of the server
        key = srs_key(config.maildirs)
        self.routing = routing(config, self.directory, self.mailboxes, self.storage, key)
        passwords = config.passwords
        self._authenticator = Authenticator(
            self.directory,
            self._hashing,
            config.default_domain,
            passwords.upgrade,
            passwords.failure_delay,
            counts=counts,
        )
        self._submission = self._submission_rules(counts)
        self._pop3 = Pop3(self._authenticator, self.mailboxes.of_user, self.storage, last_logins)

    def close(self) -> None:
        """Finish what was accepted, end the threads."""
        self._committer.close()
        self.storage.close()
        self._hashing.close()

    def factory(self, listener: Listener) -> Factory:
        """What makes the protocol of a connection to `listener`."""
        if listener.protocol == "pop3":
            return self._pop3_factory(listener)
        return self._smtp_factory(listener.protocol)

    def _smtp_factory(self, protocol: str) -> Factory:
        config = self._config
        submission = protocol == "submission"
        policy = SmtpPolicy(
            hostname=config.hostname,
            lmtp=protocol == "lmtp",
            message_size=config.limits.message_size,
            header_size=config.limits.header_size,
            recipients=config.submission.recipients if submission else config.limits.recipients,
            received=config.limits.received,
            delimiter=config.addresses.recipient_delimiter,
        )
        site = smtp.Site(
            policy,
            self.routing,
            self.reception,
            self.connections,
            smtp.Timeouts(idle=config.limits.idle_timeout, session=config.limits.session_timeout),
            tls=self._starttls(),
            submission=self._submission if submission else None,
        )
        return lambda peer: smtp.Session(site, peer)

    def _submission_rules(self, counts: Counts | None) -> Submission:
        config = self._config
        rules = config.submission
        return Submission(
            self._authenticator,
            Senders(self.routing, config.hostname, outgoing.further_senders(config)),
            Allowance(rules.messages_per_hour, rules.messages_per_day, counts=counts),
            hide_client=rules.hide_client,
            vouched=outgoing.vouched(config),
        )

    def _pop3_factory(self, listener: Listener) -> Factory:
        config = self._config
        policy = Pop3Policy(
            hostname=config.hostname,
            allow_cleartext=listener.allow_cleartext_login,
            starttls=(starttls := self._starttls()) is not None,
            login_delay=config.pop3.login_delay,
            trash_retention=config.trash.retention,
        )
        timeouts = Timeouts(
            idle=config.pop3.idle_timeout, total=config.limits.session_timeout, handshake=HANDSHAKE
        )
        return lambda peer: Driver(
            self._pop3.session(peer, policy),
            peer,
            pool=self.storage,
            timeouts=timeouts,
            line_limit=LINE_LIMIT,
            tls=starttls,
            connections=self.connections,
        )

    def _starttls(self) -> Callable[[], SSLContext] | None:
        """The certificate of the moment, for sessions that ask for TLS; None if there is none to offer."""
        certificates = self._certificates
        return (lambda: certificates.context) if certificates.available else None


def limits(config: Config) -> Limits:
    """The connection limits of a configuration."""
    return Limits(config.limits.connections, config.limits.connections_per_address, HANDSHAKE)
