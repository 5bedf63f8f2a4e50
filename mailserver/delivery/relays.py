"""Which relay a message takes: by its sender, then by its recipient's domain, then the default one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailserver.delivery.relay import Relay
from mailserver.mail.address import Address, fold_local


class Relays:
    """The relays of one configuration. Of two that claim the same thing the first one has it."""

    def __init__(self, relays: Iterable[Relay]) -> None:
        self._by_name: dict[str, Relay] = {}
        self._by_sender: dict[str, Relay] = {}
        self._by_recipient: dict[str, Relay] = {}
        self._default: Relay | None = None
        for relay in relays:
            self._by_name.setdefault(relay.name, relay)
            for sender in relay.senders:
                self._by_sender.setdefault(sender, relay)
            for domain in relay.recipients:
                self._by_recipient.setdefault(domain, relay)
            if relay.default and self._default is None:
                self._default = relay

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Relay | None:
        return self._by_name.get(name)

    def choose(self, sender: Address | None, recipient: Address) -> Relay | None:
        """The relay of the sender's address, of his domain, of the recipient's domain, or the default.

        None: the mail goes straight to the recipient's domain (`delivery.mx`).
        """
        return next((relay for _, _, relay in self.claims(sender, recipient) if relay is not None), None)

    def claims(self, sender: Address | None, recipient: Address) -> Iterator[tuple[str, str, Relay | None]]:
        """What is asked in turn: by which rule, about whom, and the relay that claims it, if one does."""
        if sender is not None:
            address = f"{fold_local(sender.local)}@{sender.domain}"
            yield "relay of the sender", address, self._by_sender.get(address)
            yield "relay of the sender's domain", sender.domain, self._by_sender.get(sender.domain)
        yield "relay of the recipient's domain", recipient.domain, self._by_recipient.get(recipient.domain)
        yield "default relay", recipient.domain, self._default
