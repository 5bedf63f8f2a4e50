"""An operator's commands for the queue: on one at rest, and through the socket of one that runs."""

import asyncio
import json
import os

import destinations
import msgspec
import pytest
from msgspec.structs import replace

from mailserver.admin import control
from mailserver.admin.queue import Office
from mailserver.admin.refused import Refused
from mailserver.admin.requests import Answer, Request, perform
from mailserver.admin.still_queue import StillQueue
from mailserver.directory.entries import Missing
from mailserver.mail.address import parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.pool import Busy, Pool
from mailserver.queue.spool import Spool
from mailserver.server.asking import ask
from mailserver.transport.driver import Connections
from mailserver.transport.listener import Peer
from mailserver.transport.session import Then

NOW = 1_700_000_000.0


@pytest.fixture
def spool(memory_path):
    made = Spool(str(memory_path / "queue"), lambda: NOW)
    made.prepare()
    return made


def put(spool, entry_id, *recipients):
    given = tuple(Recipient(parse_mailbox(address)) for address in recipients or ("b@b.test",))
    envelope = Envelope(parse_mailbox("ann@a.test"), given)
    departure = spool.destination(entry_id, envelope, size=14, wire_size=17, user="ann@a.test")
    destinations.put(spool, departure, b"Subject: x\n\nx\n")


class Awaited:
    """The operations on the queue, with words carried as JSON like those through the socket; each waits."""

    def __init__(self, spool, clock):
        self._spool, self._clock = spool, clock

    async def _carried(self, request):
        session = control.ControlSession(control.obeying(StillQueue(self._spool, self._clock)))
        answer = await session.receive(msgspec.json.encode(request))
        return msgspec.json.decode(answer.data, type=Answer)

    def entries(self):
        async def all_of_them():
            return [entry async for entry in Office(self._carried).entries()]

        return asyncio.run(all_of_them())

    def show(self, entry_id):
        return asyncio.run(Office(self._carried).show(entry_id))

    def command(self, verb, ids):
        return asyncio.run(Office(self._carried).command(verb, ids))


def office(spool, clock=lambda: NOW):
    return Awaited(spool, clock)


def test_messages_are_listed_in_order_with_who_waits(spool):
    put(spool, "M2")
    put(spool, "M1", "b@b.test", "c@c.test")
    one, two = office(spool).entries()
    assert (one.id, one.state, one.sender, one.recipients) == (
        "M1",
        "waiting",
        "ann@a.test",
        ("b@b.test", "c@c.test"),
    )
    assert (one.arrived, one.size, one.reply) == ("2023-11-14T22:13:20+00:00", 14, "")
    assert two.id == "M2"


def test_a_long_queue_is_listed_in_pages(spool, monkeypatch):
    monkeypatch.setattr("mailserver.admin.requests.LISTED", 3)
    names = [f"M{number}" for number in range(8)]
    for name in names:
        put(spool, name)
    assert [entry.id for entry in office(spool).entries()] == names


def test_held_messages_wait_until_they_are_released(spool):
    put(spool, "M1")
    at = office(spool)
    assert at.command("hold", ["M1", "M1"]).done == 1
    [entry] = at.entries()
    assert (entry.state, entry.next_attempt) == ("held", None)
    at.command("retry", ["M1"])
    assert at.show("M1").held
    at.command("release", None)
    assert not at.show("M1").held


def test_a_command_for_all_counts_those_it_is_for(spool):
    for number in range(5):
        put(spool, f"M{number}")
    with open(os.path.join(spool.root, "env", "M4"), "wb") as file:
        file.write(b"nobody can read this")
    at = office(spool)
    assert at.command("hold", ["M0"]).done == 1
    assert at.command("retry", None).done == 3
    assert at.command("hold", None).done == 3
    assert at.command("retry", None).done == 0
    assert at.command("release", None).done == 4
    assert at.command("release", None).done == 0


def test_a_retry_is_due_at_once_when_the_queue_runs_again(spool):
    put(spool, "M1")
    office(spool, lambda: NOW + 500).command("retry", ["M1"])
    assert dict(spool.ids()) == {"M1": NOW + 500}
    [recipient] = office(spool).show("M1").recipients
    assert recipient.next_attempt == "2023-11-14T22:21:40+00:00"
    [entry] = office(spool).entries()
    assert entry.state == "deferred"


def test_a_released_message_is_due_at_once_when_the_queue_runs_again(spool):
    put(spool, "M1")
    entry = spool.load("M1")
    [queued] = entry.recipients
    spool.store(replace(entry, recipients=(replace(queued, due=NOW + 5000),)))
    office(spool).command("hold", ["M1"])
    assert office(spool).command("retry", ["M1"]).done == 0
    office(spool).command("release", ["M1"])
    assert dict(spool.ids()) == {"M1": NOW}


def test_dropped_messages_are_gone_with_their_content(spool):
    put(spool, "M1")
    put(spool, "M2")
    assert office(spool).command("drop", None).done == 2
    assert list(office(spool).entries()) == []
    assert os.listdir(os.path.join(spool.root, "msg")) == []


def test_more_messages_than_fit_into_one_request(spool, monkeypatch):
    monkeypatch.setattr("mailserver.admin.queue.COMMANDED", 2)
    for number in range(5):
        put(spool, f"M{number}")
    assert office(spool).command("hold", None).done == 5


@pytest.mark.parametrize("name", ["M7", "../M1", "a/b", "", "M1\n", "M" * 200])
def test_a_message_that_is_not_there_is_named_after_the_others_are_done(spool, name):
    put(spool, "M1")
    with pytest.raises(Missing, match="no message"):
        office(spool).show(name)
    for verb in ("hold", "retry", "release", "drop"):
        with pytest.raises(Missing, match="no message"):
            office(spool).command(verb, [name, "M1"])
    assert list(spool.ids()) == []


def test_what_cannot_be_read_is_listed_and_left_alone(spool):
    put(spool, "M1")
    with open(os.path.join(spool.root, "env", "M1"), "w") as file:
        file.write("nonsense")
    [entry] = office(spool).entries()
    assert (entry.id, entry.state, entry.sender) == ("M1", "unreadable", None)
    for act in (lambda: office(spool).show("M1"), lambda: office(spool).command("hold", ["M1"])):
        with pytest.raises(Refused, match="cannot be read"):
            act()
    office(spool).command("drop", ["M1"])
    assert list(spool.ids()) == []


def test_a_disk_that_refuses_is_said_so(spool, monkeypatch):
    put(spool, "M1")
    monkeypatch.setattr(Spool, "store", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(Refused, match="the disk refused: No space left"):
        office(spool).command("hold", ["M1"])


def test_there_never_was_a_queue(tmp_path):
    assert list(office(Spool(str(tmp_path / "none"))).entries()) == []


# ---- the socket


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"verb": "format"}', b"\xff", b'{"verb": "list", "ids": 3}']
)
def test_nonsense_ends_the_conversation(spool, line):
    answer = asyncio.run(control.ControlSession(control.obeying(StillQueue(spool))).receive(line))
    assert answer.then is Then.CLOSE
    assert json.loads(answer.data)["refused"] == "expected a request in JSON"


def test_every_request_without_ids_has_an_answer(spool):
    for verb in ("show", "hold", "drop"):
        answer = asyncio.run(perform(StillQueue(spool), Request(verb)))
        assert (answer.done, answer.shown) == (0, None)


def test_a_full_pool_is_for_the_driver_to_answer(spool):
    class Full(StillQueue):
        async def hold(self, entry_id):
            raise Busy

    with pytest.raises(Busy):
        asyncio.run(perform(Full(spool), Request("hold", ("M1",))))


def through_a_socket(spool, path, request):
    """Ask over a real socket."""

    async def serve():
        pool, connections = Pool("test", threads=1, waiting=4), Connections()
        make = control.control(StillQueue(spool, lambda: NOW), pool, connections)
        peer = Peer("unix", 0, os.getuid(), secure=False)
        server = await asyncio.get_running_loop().create_unix_server(lambda: make(peer), path)
        try:
            line = msgspec.json.encode(request) + b"\n"
            return msgspec.json.decode(await ask(path, line, control.PATIENCE), type=Answer)
        finally:
            server.close()
            await connections.wait_empty()
            pool.close()

    return asyncio.run(serve())


def test_a_command_asks_over_the_socket(spool, memory_path):
    for number in range(300):
        put(spool, f"M{number:03}")
    path = str(memory_path / "s")
    assert len(through_a_socket(spool, path, Request("list")).listed) == 300
    os.unlink(path)
    ids = tuple(f"M{number:03}" for number in range(100))
    assert through_a_socket(spool, path, Request("hold", ids)).done == 100


def test_a_request_that_is_too_long_is_answered(spool, memory_path):
    answer = through_a_socket(spool, str(memory_path / "s"), Request("show", ("M" * control.LINE,)))
    assert answer.refused == "the request is too long"


def test_nobody_at_the_socket(memory_path):
    path = str(memory_path / "s")
    with pytest.raises(FileNotFoundError):
        asyncio.run(ask(path, b"{}\n", control.PATIENCE))


def test_a_server_that_goes_away(memory_path):
    path = str(memory_path / "s")

    async def serve():
        def gone(reader, writer):
            writer.close()

        async with await asyncio.start_unix_server(gone, path):
            with pytest.raises(ConnectionResetError):
                await ask(path, b"{}\n", control.PATIENCE)

    asyncio.run(serve())
