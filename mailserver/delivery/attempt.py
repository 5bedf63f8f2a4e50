"""One attempt at one message: which recipients are still open, and the outcome of each that is not."""

from __future__ import annotations

from mailserver.delivery.content import Content
from mailserver.delivery.replies import is_final
from mailserver.mail.envelope import Recipient
from mailserver.mail.reply import Reply
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery, Kind, Outcome


class Attempt:
    """The delivery, its content, and what became of its recipients so far."""

    def __init__(self, delivery: Delivery, pool: Pool) -> None:
        self.delivery = delivery
        self.content = Content(delivery.content, delivery.at_rest, pool, delivery.sent)
        self._outcomes: dict[int, Outcome] = {}

    @property
    def open(self) -> list[int]:
        """The numbers of the recipients without an outcome."""
        return [number for number in range(len(self.delivery.recipients)) if number not in self._outcomes]

    def recipient(self, number: int) -> Recipient:
        return self.delivery.recipients[number]

    def settle(
        self,
        numbers: list[int],
        reply: Reply,
        remote: str,
        *,
        unreachable: bool = False,
        dsn: bool = False,
        final: bool = False,
    ) -> None:
        """This is the outcome of these recipients: `reply`, by whom, and who reports success (`Outcome`)."""
        kind = Kind.FAILED if is_final(reply) else Kind.DELIVERED if reply.status[0] == "2" else Kind.DEFERRED
        taken = kind is Kind.DELIVERED
        outcome = Outcome(
            kind,
            reply.code,
            reply.status,
            reply.text,
            remote,
            dsn_passed_on=dsn and taken,
            final=final and taken,
            unreachable=unreachable and kind is Kind.DEFERRED,
        )
        self._outcomes.update(dict.fromkeys(numbers, outcome))

    def outcomes(self) -> list[Outcome]:
        """One for each recipient, in their order; none may be open."""
        return [self._outcomes[number] for number in range(len(self.delivery.recipients))]
