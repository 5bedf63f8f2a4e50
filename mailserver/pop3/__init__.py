"""POP3: mail goes out. `Pop3` makes a session for each connection, for a `transport.driver` to host.

`session` says what a client may say, `authorization` and `transaction` do it, `maildrop` is the mailbox as a
client sees it. Not here: listeners and time limits (`transport`), who may log in (`mta.authentication`).
"""

from __future__ import annotations

from collections.abc import Callable

from mailserver.directory.entries import User
from mailserver.mail.sasl import RESPONSE_OCTETS
from mailserver.mailbox.maildir import Maildir
from mailserver.pool import Pool
from mailserver.pop3.authorization import Authenticator, Authorization, Policy
from mailserver.pop3.login import LastLogins
from mailserver.pop3.maildrop import MailboxMaildrop
from mailserver.pop3.session import Session
from mailserver.transport.listener import Peer

__all__ = ["LINE_LIMIT", "LastLogins", "Policy", "Pop3"]

LINE_LIMIT = RESPONSE_OCTETS
"""Octets of the longest line a driver must pass on; a session refuses longer commands itself."""


class Pop3:
    """The POP3 service of a server: what its sessions share.

    `mailbox_of` says where a user's mailbox is; `last_logins` may be shared with other processes.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        mailbox_of: Callable[[User], Maildir],
        pool: Pool,
        last_logins: LastLogins | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._mailbox_of = mailbox_of
        self._pool = pool
        self._last_logins = last_logins or LastLogins()

    def session(self, peer: Peer, policy: Policy) -> Session:
        return Session(Authorization(peer, policy, self._authenticator, self._last_logins, self._open))

    async def _open(self, user: User) -> MailboxMaildrop:
        maildrop = MailboxMaildrop(self._mailbox_of(user), self._pool)
        await maildrop.open()
        return maildrop
