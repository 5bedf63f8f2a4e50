"""Under which senders a user may send: those whose mail reaches him (RFC 6409 §6.1), and those he was given.

His own address, his plus addresses and the aliases that lead to him come from the routes mail takes, so
there is no second list to keep. Not here: who the user is (`mta.authentication`), how mail is routed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mailserver import maillog
from mailserver.directory import Unavailable
from mailserver.mail.address import Address, canonical_domain, fold_local, parse_mailbox
from mailserver.mail.reply import Reply
from mailserver.mta.route import TROUBLE
from mailserver.mta.routing import Routing

NOT_YOURS = Reply(553, "5.7.1", "Sender address does not belong to the user who is logged in")
NO_ACCOUNT = Reply(550, "5.7.1", "This account may not send mail")


class Senders:
    """The rules. `hostname` is a domain of this machine's own programs.

    `others`: for a user, by address, further senders: addresses, and `@domain` for all of a domain.
    Raises AddressError where those are none.
    """

    def __init__(
        self, routing: Routing, hostname: str, others: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self._routing = routing
        self._hostname = canonical_domain(hostname)
        self._others = {
            _key(parse_mailbox(user)): frozenset(map(_pattern, senders))
            for user, senders in (others or {}).items()
        }

    def refusal(self, user: Address | None, sender: Address | None) -> Reply | None:
        """Why `user` may not send as `sender`; None if he may.

        `user` None is a trusted program of this machine: it sends as anybody here. The null sender is
        everybody's, for receipts that mail programs send (RFC 8098 §2.1).
        """
        try:
            if user is not None and not self._routing.reaches(user, user):
                return NO_ACCOUNT
            return None if sender is None or self._may(user, sender) else NOT_YOURS
        except Unavailable as error:
            maillog.event("unavailable", file=error.file, reason=error.reason)
            return TROUBLE

    def postmaster(self) -> Address:
        """Who is the author of a program's mail from nobody: whoever reads what is sent to postmaster."""
        return self._routing.known_postmaster() or Address("postmaster", self._hostname)

    def _may(self, user: Address | None, sender: Address) -> bool:
        if user is None:
            return sender.domain == self._hostname or self._routing.is_ours(sender.domain)
        name, others = _key(sender), self._others.get(_key(user), ())
        if name == _key(user):  # whose mail reaches him: `refusal` has asked
            return True
        if name in others or f"@{sender.domain}" in others:
            return True
        return self._routing.reaches(sender, user)


def _key(address: Address) -> str:
    return f"{fold_local(address.local)}@{address.domain}"


def _pattern(text: str) -> str:
    return f"@{canonical_domain(text[1:])}" if text.startswith("@") else _key(parse_mailbox(text))
