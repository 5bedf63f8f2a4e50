"""A courier that goes nowhere: it reads the script of a `remote_host` and says what would have come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from remote_host import HANGUP, STALL, Action, Choice, Script

from mailserver.delivery.replies import is_final, read, softened
from mailserver.mail.reply import Reply
from mailserver.queue.courier import Delivery, Kind, Outcome


class _Broken(Exception):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class MemoryCourier:
    """Carries messages into `messages`, a list of recipients and content for each."""

    def __init__(self, script: Script | None = None) -> None:
        self._choice = Choice(script or {})
        self.messages: list[tuple[list[str], bytes]] = []
        self.deliveries: list[Delivery] = []

    async def deliver(self, delivery: Delivery) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        self.deliveries.append(delivery)
        settled: dict[int, Reply] = {}
        pending = range(len(delivery.recipients))
        let_in = False
        try:
            for step in ("greeting", "EHLO"):
                if not (reply := self._say(step)).positive:
                    raise _Broken(softened(reply))
            let_in = True
            self._transaction(delivery, settled)
        except _Broken as broken:
            settled.update({number: broken.reply for number in pending if number not in settled})
            return [
                self._outcome(settled[n], unreachable=not let_in or broken.reply.code == 421) for n in pending
            ]
        return [self._outcome(settled[number]) for number in pending]

    def _transaction(self, delivery: Delivery, settled: dict[int, Reply]) -> None:
        everybody = range(len(delivery.recipients))
        if not (reply := self._say("MAIL")).positive:
            settled.update(dict.fromkeys(everybody, reply))
            return
        accepted = []
        for number in everybody:
            address = str(delivery.recipients[number].address)
            if (reply := self._say(f"RCPT {address}", "RCPT")).positive:
                accepted.append(number)
            else:
                settled[number] = softened(reply) if reply.code == 552 else reply
        if not accepted:
            return
        if (reply := self._say("DATA")).positive:
            with open(delivery.content(0), "rb") as file:
                content = file.read()
            self._choice.take("content")
            reply = self._say("end", last=True)
            if reply.positive:
                to = [str(delivery.recipients[number].address) for number in accepted]
                self.messages.append((to, content))
        settled.update(dict.fromkeys(accepted, reply))

    def _say(self, *steps: str, last: bool = False) -> Reply:
        action: Action | None = self._choice.take(*steps)
        if action in (HANGUP, STALL):
            raise _Broken(Reply(0, "4.4.2", "broken off"))
        if not isinstance(action, str):
            raise _Broken(Reply(0, "4.5.0", "nonsense"))
        lines = action.split("\n")
        reply = read(int(lines[-1][:3]), "\n".join(line[4:] for line in lines))
        if reply.code == 421 and not last:
            raise _Broken(reply)
        return reply

    def _outcome(self, reply: Reply, unreachable: bool = False) -> Outcome:
        kind = (
            Kind.FAILED
            if is_final(reply)
            else Kind.DELIVERED
            if reply.positive and reply.code
            else Kind.DEFERRED
        )
        return Outcome(
            kind,
            reply.code,
            reply.status,
            reply.text,
            "memory",
            dsn_passed_on=kind is Kind.DELIVERED,
            unreachable=unreachable and kind is Kind.DEFERRED,
        )
