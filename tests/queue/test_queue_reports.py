"""Who is told what: NOTIFY and RET, never a report about a report, the postmaster once."""

from __future__ import annotations

import asyncio
import email
from typing import TYPE_CHECKING

import pytest

from mailserver import maillog
from mailserver.mail.address import parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.reply import Reply
from mailserver.queue.courier import Delivery, Kind, Outcome
from mailserver.queue.reports import RETURNED
from mailserver.queue.schedule import Schedule

if TYPE_CHECKING:
    from conftest import World

OK = Outcome(Kind.DELIVERED, 250, "2.0.0", "taken", "mx.far.test")
LATER = Outcome(Kind.DEFERRED, 450, "4.2.0", "not now", "mx.far.test")
NEVER = Outcome(Kind.FAILED, 550, "5.1.1", "no such user", "mx.far.test")

WORDS = b"the words of it"


def wishes(*notify: str, to: str = "x@far.test") -> Recipient:
    return Recipient(parse_mailbox(to), frozenset(notify))


def actions(world: World) -> list[str]:
    """The actions of each report, in order."""
    found = []
    for posted in world.posted:
        fields = email.message_from_bytes(posted.content).get_payload(1)
        groups = fields.get_payload()  # type: ignore[union-attr]
        found.append(",".join(group["Action"] for group in groups[1:]))  # type: ignore[index,union-attr]
    return found


@pytest.mark.parametrize(
    ("notify", "outcome", "told"),
    [
        ((), NEVER, ["failed"]),
        (("FAILURE",), NEVER, ["failed"]),
        (("SUCCESS", "DELAY"), NEVER, []),
        (("NEVER",), NEVER, []),
        ((), OK, []),
        (("FAILURE", "DELAY"), OK, []),
        (("SUCCESS",), OK, ["relayed"]),
        (("SUCCESS",), OK._replace(final=True), ["delivered"]),
        (("SUCCESS",), OK._replace(dsn_passed_on=True), []),
        (("NEVER",), OK, []),
        ((), LATER, ["delayed", "failed"]),
        (("DELAY", "FAILURE"), LATER, ["delayed", "failed"]),
        (("DELAY",), LATER, ["delayed"]),
        (("FAILURE",), LATER, ["failed"]),
        (("SUCCESS",), LATER, []),
        (("NEVER",), LATER, []),
    ],
)
def test_wishes(world: World, notify: tuple[str, ...], outcome: Outcome, told: list[str]) -> None:
    """RFC 3461 §4.1, §5.2."""
    world.courier.answer = lambda delivery: outcome
    world.accept(wishes(*notify))
    world.run(hours=6 * 24)
    assert actions(world) == told
    assert world.ids() == []
    assert all(posted.envelope.sender is None and posted.to == "ann@here.test" for posted in world.posted)


def test_one_report_for_all_recipients(world: World) -> None:
    world.courier.answer = lambda delivery: NEVER
    world.accept("x@far.test", "y@far.test", "z@near.test")
    world.run(hours=1)
    assert actions(world) == ["failed,failed,failed"]


@pytest.mark.parametrize(
    ("ret", "size", "outcome", "whole"),
    [
        (None, 100, NEVER, True),
        ("FULL", 100, NEVER, True),
        ("HDRS", 100, NEVER, False),
        ("FULL", RETURNED + 1, NEVER, False),
        ("FULL", 100, OK, False),  # RFC 3461 §4.3: only a failure returns the content
    ],
)
def test_what_is_returned(world: World, ret: str | None, size: int, outcome: Outcome, whole: bool) -> None:
    world.courier.answer = lambda delivery: outcome
    world.accept(wishes("SUCCESS", "FAILURE"), ret=ret, content=b"Subject: hello\n\n" + WORDS + b"\n" * size)
    world.run(hours=1)
    (posted,) = world.posted
    assert b"Subject: hello" in posted.content
    assert (WORDS in posted.content) == whole
    assert len(posted.content) < RETURNED + 4000


def test_header_that_is_too_long_is_cut(world: World) -> None:
    world.courier.answer = lambda delivery: NEVER
    world.accept("x@far.test", content=b"".join(b"X-%d: y\n" % n for n in range(20_000)) + b"\n" + WORDS)
    world.run(hours=1)
    (posted,) = world.posted
    assert b"\nX-1: y\n" in posted.content
    assert WORDS not in posted.content
    assert len(posted.content) < RETURNED + 4000


def test_no_bounce_for_a_bounce(world: World) -> None:
    """That of a message from nobody goes to the postmaster, who wants to hear no more of it."""
    world.courier.answer = lambda delivery: NEVER
    world.accept("x@far.test", sender=None)
    world.run(hours=1)
    (posted,) = world.posted
    assert posted.to == "postmaster@here.test"
    assert posted.envelope.sender is None
    assert posted.envelope.recipients[0].notify == {"NEVER"}
    assert world.ids() == []


def test_the_postmasters_report_ends_there(world: World) -> None:
    world.courier.answer = lambda delivery: NEVER
    world.accept(wishes("NEVER", to="postmaster@away.test"), sender=None)
    world.run(hours=1)
    assert world.posted == []
    assert world.ids() == []


def test_nobody_is_told_that_a_report_is_late(world: World) -> None:
    world.courier.answer = lambda delivery: LATER if world.loop.now < 20 * 3600 else OK
    world.accept(wishes("SUCCESS", "DELAY"), sender=None)
    world.run(hours=30)
    assert world.posted == []
    assert world.ids() == []


def test_sender_that_is_refused(world: World) -> None:
    """A report the sender cannot get goes to the postmaster once."""

    async def post(envelope: Envelope, content: bytes) -> Reply:
        reply = await taken(envelope, content)
        return Reply(550, "5.1.1", "No such user here") if world.posted[-1].to == "ann@here.test" else reply

    taken, world.post = world.post, post  # type: ignore[method-assign]
    world.courier.answer = lambda delivery: NEVER
    world.accept("x@far.test")
    world.run(hours=24)
    assert [posted.to for posted in world.posted] == ["ann@here.test", "postmaster@here.test"]
    assert world.ids() == []


@pytest.mark.parametrize("sender", [None, "ann@here.test"])
def test_without_a_postmaster_it_stays_until_there_is_one(
    world: World, sender: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator finds it in the queue and in the log; nothing disappears."""
    logged: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: logged.append(name))
    world.courier.answer = lambda delivery: NEVER
    world.post_reply = Reply(550, "5.1.1", "No such user here")
    world.postmaster = None
    entry_id = world.accept("x@far.test", sender=sender)
    world.run(hours=24)
    assert world.ids() == [entry_id]
    assert 20 <= logged.count("report-kept") <= 26
    world.posted.clear()
    world.postmaster = parse_mailbox("postmaster@late.test")
    world.run(hours=2)
    assert world.posted[-1].to == "postmaster@late.test"
    world.post_reply = Reply(250, "2.0.0", "OK")
    world.run(hours=2)
    assert world.ids() == []
    assert len(world.courier.attempts) == 1


def test_success_nobody_wants_to_hear_of(world: World) -> None:
    world.post_reply = Reply(550, "5.1.1", "No such user here")
    world.accept(wishes("SUCCESS"))
    world.run(hours=1)
    assert [posted.to for posted in world.posted] == ["ann@here.test"]
    assert world.ids() == []


def test_report_that_nobody_can_take_now(world: World) -> None:
    """It is owed until it is taken, and the message is not carried again meanwhile."""
    world.courier.answer = lambda delivery: NEVER
    world.post_reply = Reply(452, "4.3.1", "Insufficient system storage")
    entry_id = world.accept("x@far.test")
    world.run(hours=1)
    assert world.ids() == [entry_id]
    refused = len(world.posted)
    assert 10 <= refused <= 13
    world.post_reply = Reply(250, "2.0.0", "OK")
    world.run(hours=1)
    assert world.ids() == []
    assert len(world.posted) == refused + 1
    assert len(world.courier.attempts) == 1


def test_post_that_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def post(envelope: object, content: bytes) -> Reply:
        raise OSError(5, "Input/output error")

    world.courier.answer = lambda delivery: NEVER
    entry_id = world.accept("x@far.test")
    with monkeypatch.context() as patch:
        patch.setattr(world, "post", post)
        world.run(hours=1)
    assert world.ids() == [entry_id]
    world.run(hours=1)
    assert actions(world) == ["failed"]
    assert world.ids() == []


def test_notice_only_once_over_restarts(world: World) -> None:
    world.courier.answer = lambda delivery: LATER
    world.schedule = Schedule(lifetime=3 * 86400, notice=3600)
    world.accept("x@far.test")
    for _ in range(8):
        world.run(hours=12)
    assert actions(world) == ["delayed", "failed"]


def test_failure_known_before_a_restart_is_reported_after_it(world: World) -> None:
    """The outcome is on the disk, the report was left for later: it comes, and nobody is tried again."""

    async def answer(delivery: Delivery) -> Outcome:
        delivery.sent()
        await asyncio.sleep(30)
        return NEVER

    world.courier.answer = answer  # type: ignore[assignment]
    entry_id = world.accept("x@far.test")
    world.run(asyncio.sleep(1), grace=60)
    assert world.posted == []
    assert world.ids() == [entry_id]
    world.run(hours=0.001)
    assert actions(world) == ["failed"]
    assert len(world.courier.attempts) == 1
    assert world.ids() == []
