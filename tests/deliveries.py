"""Deliveries for couriers to carry, the letters in them, and what came of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mailserver.mail.address import parse_mailbox
from mailserver.mail.envelope import Recipient
from mailserver.queue.courier import Delivery, Outcome, Route

LETTER = b"From: a@here.test\nTo: ann@there.test\nSubject: hello\n\nfirst line\n.\n..two dots\nlast line\n"


def delivery(
    directory: Path,
    *to: str | Recipient,
    sender: str = "a@here.test",
    letter: bytes = LETTER,
    route: Route = "there.test",
    **more: object,
) -> Delivery:
    """A delivery of a letter that stands in `directory`."""
    path = directory / f"letter-{len(list(directory.iterdir()))}"
    path.write_bytes(letter)
    return Delivery(
        id="Q1",
        route=route,
        sender=parse_mailbox(sender) if sender else None,
        recipients=tuple(
            one if isinstance(one, Recipient) else Recipient(parse_mailbox(one))
            for one in to or ("ann@there.test",)
        ),
        size=len(letter) + letter.count(b"\n"),
        at_rest=len(letter),
        content=lambda _: os.open(path, os.O_RDONLY),
        **more,  # type: ignore[arg-type]
    )


def kinds(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """What came of each recipient: the kind, and the enhanced status."""
    return [(outcome.kind.value, outcome.status) for outcome in outcomes]
