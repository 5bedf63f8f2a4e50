"""What comes without being asked for: events, and mirrors that follow a state; and clients that are too slow."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from perspectives import Office, Raw, client
from serving import PASSWORD

from mailserver.admin.entries import QueueEntry
from mailserver.admin.operations import queue
from mailserver.console.pb import streams

MIRROR = """
class Mirror(pb.RemoteCache):
    def setCopyableState(self, state):
        self.values, self.waiting, self.seen = state["values"], {}, set()
    def observe_changed(self, name, value):
        self.values[name] = value
        self.see(("changed", name))
    def observe_gone(self, name):
        del self.values[name]
        self.see(("gone", name))
    def see(self, what):
        self.seen.add(what)
        if what in self.waiting:
            self.waiting[what].callback(None)
    def until(self, *what):
        if what in self.seen:
            return defer.succeed(None)
        return self.waiting.setdefault(what, defer.Deferred())
pb.setUnjellyableForClass("mailserver.Mirror", Mirror)
"""


def entry(number, **changes):
    fields = {
        "state": "deferred",
        "arrived": None,
        "next_attempt": None,
        "size": 1,
        "sender": "ann@example.test",
    }
    return QueueEntry(id=f"m{number}", recipients=("x@away.test",), **{"reply": "", **fields, **changes})


@pytest.fixture
def office(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "_EVERY", 0.01)
    office = Office(tmp_path)
    yield office
    office.pool.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_change_of_the_queue_appears_without_a_question(office, tmp_path):
    body = f"""
{MIRROR}
me = await root.callRemote("authenticate", "owen", {PASSWORD!r})
queue, domains = await me.callRemote("queue"), await me.callRemote("domains")
mirror = await queue.callRemote("watch")
say(sorted(mirror.values))
await domains.callRemote("add", "first.test")
await mirror.until("changed", "m3")
await mirror.until("changed", "m1")
say([sorted(mirror.values), mirror.values["m1"]["state"]])
await domains.callRemote("add", "second.test")
await mirror.until("gone", "m1")
await mirror.until("gone", "m2")
say(sorted(mirror.values))
del mirror
await domains.callRemote("add", "third.test")
say("done")
"""

    async def conversation():
        office.server.queue = (entry(1), entry(2))
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            talk = asyncio.create_task(client(f"unix:{tmp_path}/pb.sock", body))
            await until(lambda: "first.test" in office.accounts.directory.domains() or talk.done())
            office.server.queue = (entry(1, state="held"), entry(2), entry(3))
            await until(lambda: "second.test" in office.accounts.directory.domains() or talk.done())
            office.server.queue = (entry(3),)
            return await talk

    assert asyncio.run(conversation()) == [["m1", "m2"], [["m1", "m2", "m3"], "held"], ["m3"], "done"]


def test_events_are_calls_that_nobody_answers(office, tmp_path):
    body = f"""
class Observer(pb.Referenceable):
    def __init__(self):
        self.ended = defer.Deferred()
    def remote_event(self, value):
        say(value)
        if value["line"] == "third":
            self.ended.callback(None)
observer = Observer()
me = await root.callRemote("authenticate", "owen", {PASSWORD!r})
stream = await me.callRemote("events", observer)
await observer.ended
await stream.callRemote("stop")
await wrong(me.callRemote("events", "no observer"))
await wrong(me.callRemote("events"))
say("stopped")
"""

    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            talk = asyncio.create_task(client(f"unix:{tmp_path}/pb.sock", body))
            await until(lambda: office.server.readers or talk.done())
            for line in ("first", "second", "third"):
                office.server.log(line)
            said = await talk
            await until(lambda: not office.server.readers)
            return said

    refused = "mailserver.console.pb.values.Refused"
    assert asyncio.run(conversation()) == [
        {"line": "first"},
        {"line": "second"},
        {"line": "third"},
        [refused, "expected a reference with the method `event` first"],
        [refused, "expected the arguments observer"],
        "stopped",
    ]


def test_who_reads_too_slowly_loses_events_and_is_told_how_many(office, tmp_path):
    long = "x" * 50_000

    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            raw = await Raw.connect(f"{tmp_path}/pb.sock")
            server = await raw.login()
            number = 1000
            observer = [b"tuple", [b"remote", 7]]
            raw.say([b"message", number, server, b"events", 1, observer, [b"dictionary"]])
            await until(lambda: office.server.readers)
            for _ in range(100):
                office.server.log(long)
            await until(lambda: not office.server.unread)  # all of it is sent or lost, and nobody reads
            heard = [await raw.hear()]
            while heard[-1][0] != b"answer":
                heard.append(await raw.hear())
            assert heard[-1][1] == number
            events = []
            ended = False
            while not ended:
                office.server.log("last")
                _, _, target, name, answered, args, _ = await raw.hear()
                assert (target, answered) == (7, 0)
                events.append((name, args[1]))
                ended = name == b"event" and args[1][1][1] == [b"unicode", b"last"]
            raw.close()
            await until(lambda: not office.server.readers)
            return events

    events = asyncio.run(conversation())
    [lost] = [count for name, count in events if name == b"lost"]
    assert lost > 0 and [name for name, _ in events][-2:] == [b"lost", b"event"]
    assert len(events) - 2 + lost == 100


def test_a_mirror_that_is_behind_leaves_out_what_is_over(office, tmp_path):
    async def conversation():
        office.server.queue = (entry(1),)
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            raw = await Raw.connect(f"{tmp_path}/pb.sock")
            server = await raw.login()
            [_, [_, board]] = await raw.call(server, b"queue")
            await raw.call(board, b"watch")
            looks = office.server.looks
            for number in range(100):
                office.server.queue = (entry(1, reply=f"{number} " + "x" * 50_000),)
                looked = office.server.looks
                await until(lambda looked=looked: office.server.looks > looked or _is_behind(office))
            assert _is_behind(office) and office.server.looks < looks + 100
            office.server.queue = (entry(1, reply="the last"),)
            heard = [await raw.hear()]
            while "the last" not in str(heard[-1]):
                heard.append(await raw.hear())
            raw.close()
            return heard

    heard = asyncio.run(conversation())
    assert {(kind, name) for kind, _, _, name, *_ in heard} == {(b"cachemessage", b"changed")}
    assert len(heard) < 100


def _is_behind(office):
    """Whether the one client has not taken what was sent."""
    [entry] = office.connections
    return entry.connection._transport.held


def test_streams_of_a_connection_are_bounded_and_end_with_it(office, tmp_path):
    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            raw = await Raw.connect(f"{tmp_path}/pb.sock")
            server = await raw.login()
            [_, [_, board]] = await raw.call(server, b"queue")
            for _ in range(streams.MOST):
                assert (await raw.call(board, b"watch"))[0] == b"answer"
            kind, refused = await raw.call(board, b"watch")
            assert kind == b"error" and "stop one" in str(refused)
            raw.close()
            await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(conversation())
