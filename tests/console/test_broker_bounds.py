"""What one connection may have of the broker: references, calls, octets, time; and what a fault tells."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from perspectives import USER, Office, Raw, encoded, jelly
from serving import PASSWORD

from mailserver import maillog
from mailserver.admin import turns
from mailserver.admin.accounts import Accounts
from mailserver.admin.roles import Role
from mailserver.console import broker
from mailserver.console.pb import octets
from mailserver.pool import Busy


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    yield office
    office.pool.close()


@pytest.fixture
def events(monkeypatch):
    """Events logged, as (name, fields)."""
    seen = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))
    return seen


@pytest.fixture
def talk(office, tmp_path):
    """Run a conversation of one client; afterwards nothing is left of it in the server."""

    def talk(conversation):
        async def whole():
            with office.listening(f"unix:{tmp_path}/pb.sock"):
                raw = await Raw.connect(f"{tmp_path}/pb.sock")
                try:
                    async with asyncio.timeout(20):
                        result = await conversation(raw)
                finally:
                    raw.close()
                async with asyncio.timeout(5):
                    await office.connections.wait_empty()
                    while len(asyncio.all_tasks()) > 1:
                        await asyncio.sleep(0.005)
                return result

        return asyncio.run(whole())

    return talk


def test_who_hangs_up_while_a_guess_waits_is_gone(talk, office, monkeypatch):
    begun = asyncio.Event()

    async def authenticate(*_):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(office.operators, "authenticate", authenticate)

    async def conversation(raw):
        for _ in range(3):
            raw.begin(b"root", b"authenticate", "owen", "wrong")
        await begun.wait()
        raw.writer.close()

    talk(conversation)  # which waits until nobody is connected


def test_what_was_not_looked_at_is_not_called_wrong(talk, office, monkeypatch):
    async def authenticate(*_):
        raise Busy

    monkeypatch.setattr(office.operators, "authenticate", authenticate)

    async def conversation(raw):
        return await raw.call(b"root", b"authenticate", "owen", PASSWORD)

    assert "too busy" in str(talk(conversation))


def test_references_of_a_connection_are_bounded_and_may_be_given_back(talk):
    async def conversation(raw):
        server = await raw.login()
        numbers = []
        while (answer := await raw.call(server, b"domains"))[0] == b"answer":
            numbers.append(answer[1][1])
        assert "let go of some" in str(answer[1])
        assert len(set(numbers)) == len(numbers) == broker.REFERENCES - 2  # the root and the perspective
        raw.say([b"decref", numbers[0]])
        assert (await raw.call(server, b"domains"))[0] == b"answer"
        assert (await raw.call(numbers[0], b"list"))[0] == b"error"

    talk(conversation)


def test_calls_beyond_the_bound_are_not_read_before_others_are_answered(talk, office, monkeypatch):
    going, most, gate = 0, 0, asyncio.Event()

    async def perform(*_):
        nonlocal going, most
        going += 1
        most = max(most, going)
        await gate.wait()
        going -= 1

    async def conversation(raw):
        server = await raw.login()
        [_, [_, domains]] = await raw.call(server, b"domains")
        monkeypatch.setattr(office.administration, "perform", perform)
        numbers = {raw.begin(domains, b"list") for _ in range(100)}
        async with asyncio.timeout(5):
            while going < broker.CALLS:
                await asyncio.sleep(0.005)
        gate.set()
        assert {(await raw.hear())[1] for _ in range(100)} == numbers

    talk(conversation)
    assert most == broker.CALLS


def test_a_user_has_a_share_of_the_work_and_an_owner_passes_by(talk, office, tmp_path, monkeypatch):
    going, most, gate = 0, 0, asyncio.Event()
    run = office.administration._run

    async def slow(operation, call, arguments):
        nonlocal going, most
        if call.operator.role is Role.USER:
            going += 1
            most = max(most, going)
            await gate.wait()
            going -= 1
        return await run(operation, call, arguments)

    async def conversation(owner):
        server = await owner.login()
        monkeypatch.setattr(office.administration, "_run", slow)
        users = [await Raw.connect(f"{tmp_path}/pb.sock") for _ in range(3)]
        calls = []  # 48 of them
        for user in users:
            [_, [_, me]] = await user.call(b"root", b"authenticate", USER, PASSWORD)
            calls += [(user, user.begin(me, b"whoami")) for _ in range(broker.CALLS)]
        while not going:
            await asyncio.sleep(0.005)
        assert (await owner.call(server, b"whoami"))[0] == b"answer"
        gate.set()
        assert {(await user.hear())[0] for user, _ in calls} == {b"answer"}
        for user in users:
            user.close()

    talk(conversation)
    assert most == turns.OF_USER


def test_before_the_login_one_call_at_a_time_and_little_in_it(talk, office, events):
    async def conversation(raw):
        raw.begin(b"root", b"authenticate", "owen", "x" * broker.EARLY)
        return await raw.rest()

    assert talk(conversation) == []
    assert ("broker-closed", {"peer": "unix", "reason": "malformed"}) in events


def test_after_it_messages_are_longer_but_bounded(talk, events):
    async def conversation(raw):
        server = await raw.login()
        kind, answer = await raw.call(server, b"help", "x" * 10_000)
        assert kind == b"answer" and answer == [b"unicode", b"no such command"]
        raw.begin(server, b"help", "x" * octets.MOST)
        return await raw.rest()

    assert talk(conversation) == []
    assert ("broker-closed", {"peer": "unix", "reason": "malformed"}) in events


def test_who_is_silent_for_too_long_is_sent_away(talk, office, events):
    office.console.idle_timeout = 0.05

    async def conversation(raw):
        await raw.login()
        return await raw.rest()

    assert talk(conversation) == []
    assert ("session-timed-out", {"peer": "unix"}) in events


def test_an_answer_that_is_too_long_is_an_error(talk, office, monkeypatch):
    async def perform(*_):
        return ["x" * 100_000] * 1000

    async def conversation(raw):
        server = await raw.login()
        [_, [_, domains]] = await raw.call(server, b"domains")
        monkeypatch.setattr(office.administration, "perform", perform)
        return await raw.call(domains, b"list")

    kind, answer = talk(conversation)
    assert kind == b"error" and "ask for less" in str(answer)


def test_a_long_list_is_written_beside_the_calls_of_others(talk, office, monkeypatch):
    threads = []

    async def perform(*_):
        return [{"address": f"u{number}@example.test"} for number in range(5000)]

    async def conversation(raw):
        server = await raw.login()
        [_, [_, domains]] = await raw.call(server, b"domains")
        monkeypatch.setattr(office.administration, "perform", perform)
        run = office.pool.run
        monkeypatch.setattr(office.pool, "run", lambda *work: threads.append(work[0].__name__) or run(*work))
        return await raw.call(domains, b"list")

    kind, [name, *entries] = talk(conversation)
    assert (kind, name, len(entries)) == (b"answer", b"list", 5000)
    assert entries[-1] == jelly({"address": "u4999@example.test"})
    assert threads == ["_written"]


def test_of_a_fault_a_client_learns_nothing(talk, office, events, monkeypatch):
    async def perform(*_):
        raise RuntimeError("/etc/secret is unreadable")

    async def conversation(raw):
        server = await raw.login()
        [_, [_, domains]] = await raw.call(server, b"domains")
        monkeypatch.setattr(office.administration, "perform", perform)
        kind, answer = await raw.call(domains, b"list")
        raw.say([b"message", 99, domains, b"list", 0, *map(jelly, ((), {}))])
        assert (await raw.call(server, b"help"))[0] == b"answer"
        return kind, answer

    kind, [name, state] = talk(conversation)
    assert (kind, name) == (b"error", b"twisted.spread.pb.CopyableFailure")
    said = {key[1]: value for key, value in state[1:]}
    assert said[b"value"] == [b"unicode", b"it could not be done; the log says why"]
    assert said[b"traceback"] == [b"unicode", b"Traceback unavailable\n"]
    assert said[b"frames"] == said[b"stack"] == [b"list"]
    faults = [fields for name, fields in events if name == "session-failed"]
    assert len(faults) == 2 and all("secret" not in str(fields) for fields in faults)
    assert faults[0]["error"] == "RuntimeError"


def test_a_fault_of_an_operation_is_logged_once(talk, office, events, monkeypatch):
    def fail(*_):
        raise RuntimeError

    async def conversation(raw):
        server = await raw.login()
        [_, [_, domains]] = await raw.call(server, b"domains")
        monkeypatch.setattr(Accounts, "list_domains", fail)
        return await raw.call(domains, b"list")

    assert talk(conversation)[0] == b"error"
    assert [name for name, fields in events if "error" in fields] == ["operation-failed"]


def test_a_password_goes_over_no_wire_that_others_read(office, monkeypatch):
    """However a listener came to be there: the configuration has none such."""
    from mailserver.transport.listener import Peer

    plain = broker.Broker(office.desk, Peer("192.0.2.7", 25, None, False))
    with pytest.raises(Exception, match="over TLS alone"):
        asyncio.run(plain._authenticate("owen", PASSWORD))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(encoded([b"answer", 1, 2]), id="an answer to nothing"),
        pytest.param(encoded([b"error", 1, 2]), id="an error of nothing"),
        pytest.param(encoded([b"cachemessage", 1, 1, b"x", 0, [b"tuple"], [b"dictionary"]]), id="to a cache"),
        pytest.param(encoded([b"uncache", 1]), id="uncache"),
        pytest.param(encoded([b"decref", 7]), id="a reference it has not"),
        pytest.param(encoded([b"decref", b"root"]), id="the root, away"),
        pytest.param(encoded([b"decache", 7]), id="a cache it has not"),
        pytest.param(encoded([b"didNotUnderstand", b"x"]), id="did not understand"),
        pytest.param(encoded([b"sendCall", b"x"]), id="a method of the broker's"),
        pytest.param(encoded([b"version", 5]), id="another version"),
        pytest.param(encoded([b"message", 1, [b"x"], b"x", 1, [b"tuple"], [b"dictionary"]]), id="to a list"),
        pytest.param(encoded([]), id="nothing"),
        pytest.param(encoded(7), id="a number"),
        pytest.param(encoded(b"pb"), id="a second choice of words"),
    ],
)
@pytest.mark.parametrize("logged_in", [False, True])
def test_what_no_client_has_a_reason_to_send_ends_the_connection(sent, logged_in, talk, events):
    async def conversation(raw):
        if logged_in:
            await raw.login()
        raw.writer.write(sent)
        return await raw.rest()

    assert talk(conversation) == []
    assert ("broker-closed", {"peer": "unix", "reason": "unexpected"}) in events


def test_one_connections_numbers_are_nothing_to_another(talk, office, tmp_path):
    async def conversation(raw):
        server = await raw.login()
        other = await Raw.connect(f"{tmp_path}/pb.sock")
        for number in range(server + 2):
            kind, answer = await other.call(number, b"domains")
            assert kind == b"error" and "no such object" in str(answer)
        other.close()

    talk(conversation)
