"""Telnet dialogues: logging in, editing lines, phrases and their results, questions, streams, ends."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from perspectives import USER
from serving import PASSWORD
from telnet_client import DOWN, LEFT, UP

from mailserver.admin.entries import QueueEntry
from mailserver.console import places
from mailserver.mta import guesses
from mailserver.transport.listener import Peer


def test_an_operator_logs_in_asks_and_leaves(play, office, events):
    async def conversation(client):
        await client.until("Login: $")
        client.enter("owen")
        await client.until("Password: $")
        client.enter(PASSWORD)
        await client.until("owen owner> $")
        assert any("You are owen, owner" in line for line in client.screen.lines)
        assert await client.ask("domain list") == [
            "domain        users  aliases",
            "example.test  1      0",
            "other.test    0      0",
        ]
        assert await client.ask("whoami now") == ["whoami: one word too many"]
        client.enter("logout")
        assert (await client.until_closed()).endswith("Goodbye.\r\n")
        assert PASSWORD not in client.seen

    play(conversation)
    assert ("login", "ok") in [(name, fields.get("outcome")) for name, fields in events]
    assert not [name for name, fields in events if "error" in fields]


def test_what_a_role_may_not_leaves_a_line(play, office, events):
    """One for each try, and nothing of what was typed but the operation."""

    async def conversation(client):
        await client.log_in("dora", PASSWORD)
        for line in ("stop", "operator list", "frobnicate hunter2", "user passwd ann@example.test hunter2"):
            await client.ask(line)

    play(conversation)
    audit = [fields for name, fields in events if name == "audit"]
    assert [(one["operation"], one["outcome"]) for one in audit] == [
        ("stop", "forbidden"),
        ("operator list", "forbidden"),
        ("unknown", "refused"),
        ("user passwd", "refused"),
    ]
    assert {(one["operator"], one["front"]) for one in audit} == {("dora", "telnet")}
    assert "hunter2" not in str(events)


def test_three_wrong_passwords_end_the_connection(play, office):
    async def conversation(client):
        for name in ("owen", "nobody", "owen"):
            await client.until("Login: $")
            client.enter(name)
            await client.until("Password: $")
            client.enter("wrong")
            await client.until_shown("Wrong name or password")
        assert (await client.until_closed()).count("Wrong name or password.") == 3

    play(conversation)


def test_a_guess_too_many_is_not_looked_at(play, office, monkeypatch):
    monkeypatch.setattr(guesses.Line, "LONGEST_WAIT", -1.0)

    async def conversation(client):
        await client.until("Login: $")
        client.enter("owen")
        await client.until("Password: $")
        client.enter(PASSWORD)
        await client.until_shown("Too busy, try again later")

    play(conversation)


def test_of_one_name_there_are_so_many_connections(play, office, monkeypatch):
    monkeypatch.setattr(places, "OF_NAME", 1)

    first, second = asyncio.Event(), asyncio.Event()

    async def there(client):
        await client.log_in("owen", PASSWORD)
        first.set()
        await second.wait()

    async def one_more(client):
        await first.wait()
        await client.until("Login: $")
        client.enter("owen")
        await client.until("Password: $")
        client.enter(PASSWORD)
        assert "Too many connections of owen." in await client.until_closed()
        second.set()

    play(there, one_more)
    assert office.desk.places.admit(Peer("127.0.0.1", 4000, None, False), "owen")  # who left is not counted


def test_who_hangs_up_while_a_guess_waits_is_gone(play, office, monkeypatch):
    begun = asyncio.Event()

    async def authenticate(*_):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(office.operators, "authenticate", authenticate)

    async def conversation(client):
        await client.until("Login: $")
        client.enter("owen")
        await client.until("Password: $")
        client.enter("wrong")
        await begun.wait()

    play(conversation)  # which waits until nobody is connected


def test_users_log_in_by_address_and_see_to_themselves(play, office):
    async def conversation(client):
        await client.log_in(USER, PASSWORD)
        assert (await client.ask("mailbox show"))[0].split() == ["address", USER]
        assert await client.ask("domain list") == ["no such command"]
        assert await client.ask("python") == ["no such command"]
        assert "queue list" not in "\n".join(await client.ask("help"))

    play(conversation)


def test_keys_edit_the_line(play, office):
    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        for keys, line in (
            ("wrong\x15domain lis\x17\x17whoamx\x7fi", "whoami"),
            ("\x01\x0bdomxain" + LEFT * 3 + "\x7f" + "\x05 list", "domain list"),
            ("\x01x\x1b[3~\x04oy\x15", "main list"),
            ("\x05\x15grüße 語", "grüße 語"),
            ("\x15\x1b[9~\x1bx\x1b[5~no", "no"),
        ):
            client.type(keys)
            await client.until(f"owner> {line}$")
        client.type("\x03")
        await client.until("> $")
        assert len(await client.ask("domain list")) == 3
        await client.ask("whoami")
        client.type(UP + UP)
        await client.until("> domain list$")
        client.type(DOWN)
        await client.until("> whoami$")
        client.type(UP + " ")
        await client.until("> domain list $")
        client.type("\x15" + "x" * 200)
        await client.until("> x+$")
        assert len(client.screen.lines[-1]) < 80
        client.type("\x0c\x15")
        await client.until("> $")

    play(conversation)


def test_tab_completes_what_the_role_knows(play, office):
    async def conversation(client):
        await client.log_in("dora", PASSWORD)
        for keys, line in (
            ("dom\tsh\te\t", "domain show example.test "),
            ("\x15us\tpas\tann@\t", "user passwd ann@example.test "),
            ("\x15he\tdom\t", "help domain "),
            ("\x15log\t", "logout "),
            ("\x15operator a\t", "operator a"),
            ("\x15domain show o\t", "domain show o"),  # which is none of hers
        ):
            client.type(keys)
            await client.until(f"> {line}$")
        client.type("\x15domain \t")
        await client.until_shown(r"(?m)^list\s+set\s+show")
        await client.until("> domain $")

    play(conversation)


def test_what_destroys_is_asked_about(play, office):
    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        for answer in ("y", "no", ""):
            client.enter(f"user remove {USER}")
            await client.until("Type yes to go on: $")
            client.enter(answer)
            await client.until_shown("nothing was done")
            await client.until("> $")
        client.enter(f"user remove {USER}")
        await client.until("Type yes to go on: $")
        client.type("\x03")
        await client.until("> $")
        assert any(USER in line for line in await client.ask("user list"))
        client.enter(f"user remove {USER}")
        await client.until("Type yes to go on: $")
        client.enter("yes")
        await client.until("> $")
        assert not any(USER in line for line in await client.ask("user list"))

    play(conversation)


def test_secrets_are_asked_for_twice_and_not_shown(play, office):
    async def conversation(client):
        await client.log_in("owen", PASSWORD)

        async def add(*passwords):
            client.enter("user add bob@example.test")
            for number, password in enumerate(passwords):
                await client.until("Password again: $" if number else "Password: $")
                client.enter(password)
            await client.until("> $")

        await add("horse battery", "horse buttery")
        await client.until_shown("these differ: nothing was done")
        assert not any("bob@" in line for line in await client.ask("user list"))
        await add("horse battery", "horse battery")
        assert any("bob@" in line for line in await client.ask("user list"))
        assert "horse" not in client.seen

    play(conversation)


def test_ones_own_password_needs_the_old_one(play, office):
    async def conversation(client):
        await client.log_in("hedy", PASSWORD)
        client.enter("passwd")
        for question, answer in (
            ("Old password: $", PASSWORD),
            ("New password: $", "horse battery"),
            ("New password again: $", "horse battery"),
        ):
            await client.until(question)
            client.enter(answer)
        await client.until_shown("done")

    play(conversation)


def test_a_stream_goes_on_until_ctrl_c(play, office):
    async def conversation(client):
        await client.log_in("audie", PASSWORD)
        client.enter("events")
        async with asyncio.timeout(5):
            while not office.server.readers:
                await asyncio.sleep(0.01)
        for number in range(3):
            office.server.log(f"line {number} \x1b[31m")
        await client.until_shown(r"line 2 \?\[31m")
        client.type("typed ahead\x03")
        await client.until("audie auditor> $")
        assert office.server.readers == 0
        assert (await client.ask("whoami"))[0].split()[1] == "audie"

    play(conversation)


def test_ctrl_c_typed_ahead_ends_a_stream(play, office):
    async def conversation(client):
        await client.log_in("audie", PASSWORD)
        client.type("events\r\0\x03")
        await client.until_shown("auditor> events\n.*> $")
        assert office.server.readers == 0

    play(conversation)


def test_telnet_commands(play, office):
    """Interrupt, erase, are-you-there, as a client sends them that traps the keys itself."""

    async def conversation(client):
        await client.log_in("audie", PASSWORD)
        client.enter("events")
        async with asyncio.timeout(5):
            while not office.server.readers:
                await asyncio.sleep(0.01)
        client.writer.write(b"\xff\xf4")  # IP
        await client.until("auditor> $")
        client.writer.write(b"whoamix\xff\xf7y\xff\xf7")  # EC
        await client.until("> whoami$")
        client.writer.write(b"\xff\xf8")  # EL
        await client.until("> $")
        client.writer.write(b"\xff\xf6")  # AYT
        await client.until_shown(r"\[yes\]")

    play(conversation)


def test_the_connection_of_a_stream_is_lost(play, office):
    async def conversation(client):
        await client.log_in("audie", PASSWORD)
        client.enter("events")
        async with asyncio.timeout(5):
            while not office.server.readers:
                await asyncio.sleep(0.01)
            client.writer.transport.abort()
            while office.server.readers:
                await asyncio.sleep(0.01)

    play(conversation)


def test_results_fit_the_window(play, office):
    office.server.queue = (
        QueueEntry(
            "0123456789abcdef",
            "deferred",
            "2026-11-22T10:00:00+00:00",
            "2026-11-22T10:30:00+00:00",
            123456,
            "ann@example.test",
            ("bob@example.net",),
            "451 \x1b]0;owned\x07 later \N{RIGHT-TO-LEFT OVERRIDE} please",
        ),
    )

    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        for width in (200, 79, 41, 20):
            client.resize(width, 24)
            shown = await client.ask("queue list")
            assert max(map(len, shown)) <= width
            assert "0123456789abcdef" in "".join(line.strip() for line in shown).replace(" ", "")
        assert "\x1b]" not in client.seen and "\x07" not in client.seen
        for width in (0, 1, 65535):
            client.resize(width, 0)
            assert await client.ask("queue list")

    play(conversation)


def test_who_speaks_no_telnet_sends_lines(play, office):
    async def conversation(client):
        await client.until("Login: $")
        client.enter("owen")
        await client.until(r"Password \(will be seen\): $")
        client.type(PASSWORD + "\r\n")
        await client.until("> $")
        client.enter("whoami")
        await client.until_shown(r"operator|name\s+owen")
        client.enter("x" * 5000)
        await client.until_shown("line too long")
        client.enter("events")
        async with asyncio.timeout(5):
            while not office.server.readers:
                await asyncio.sleep(0.01)
        office.server.log("a line")
        await client.until_shown("a line")
        client.enter("")
        async with asyncio.timeout(5):
            while office.server.readers:
                await asyncio.sleep(0.01)
        client.enter("\x1b[Adomain list\x03")
        await client.until_shown("no control|no such command")
        client.enter("logout")
        assert "\x1b" not in await client.until_closed()

    play(conversation, speaks=False)


def test_last_words_of_a_half_closed_connection_are_answered(play, office):
    async def conversation(client):
        client.type(f"owen\n{PASSWORD}\ndomain list\n")
        client.writer.write_eof()
        assert "other.test    0      0\r\n" in await client.until_closed()

    play(conversation, speaks=False)


def test_over_a_unix_socket_the_account_is_enough(play, office, tmp_path, events):
    async def conversation(client):
        await client.until("root owner> $" if os.geteuid() == 0 else "owner> $")
        assert len(await client.ask("domain list")) == 3
        client.type("\x04")
        await client.until_closed()

    play(conversation, endpoint=f"unix:{tmp_path}/console.sock")
    assert [fields["uid"] for name, fields in events if name == "login"] == [os.geteuid()]


def test_over_a_unix_socket_others_log_in(play, office, tmp_path, monkeypatch):
    monkeypatch.setattr(office.operators, "of_uid", lambda uid: None)

    async def conversation(client):
        await client.log_in("owen", PASSWORD)

    play(conversation, endpoint=f"unix:{tmp_path}/console.sock")


def test_silence_ends_it(play, office, events):
    office.console.idle_timeout = 0.2

    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        await client.until_closed()

    play(conversation)
    assert "session-timed-out" in [name for name, _ in events]


def test_who_is_connected(play, office):
    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        (entry,) = office.connections
        assert entry.connection.about() == ("telnet", "127.0.0.1", "owen", False)

    play(conversation)


def test_a_fault_of_ours_is_told_as_one(play, office, events, monkeypatch):
    async def perform(*_):
        raise RuntimeError("secret")

    async def conversation(client):
        await client.log_in("owen", PASSWORD)
        assert await client.ask("whoami") == ["it could not be done; the log says why"]
        monkeypatch.setattr("mailserver.admin.phrases.help", lambda *_: 1 / 0)
        client.enter("help")
        await client.until_closed()
        assert "secret" not in client.seen

    monkeypatch.setattr(office.administration, "perform", perform)
    play(conversation)
    assert [fields["error"] for name, fields in events if name == "session-failed"] == ["ZeroDivisionError"]


def test_an_operator_who_is_removed_may_do_no_more(play, office):
    async def conversation(client):
        await client.log_in("audie", PASSWORD)
        office.operators.remove("audie")
        client.enter("domain list")
        assert "You are no operator any more.\r\nGoodbye." in await client.until_closed()
        assert "other.test" not in client.seen

    play(conversation)


def test_no_more_is_read_ahead_than_is_bounded(play, office, monkeypatch):
    """A client that types while a phrase is carried out is not read without end."""
    go_on = None

    async def perform(*_):
        await go_on.wait()

    async def conversation(client):
        nonlocal go_on
        go_on = asyncio.Event()
        await client.log_in("owen", PASSWORD)
        monkeypatch.setattr(office.administration, "perform", perform)
        client.enter("whoami")
        sock = client.writer.get_extra_info("socket")
        sent = 0
        client.writer.transport.pause_reading()
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        raw.setblocking(False)
        async with asyncio.timeout(10):
            for _ in range(200):
                try:
                    sent += raw.send(b"x" * 65536)
                except BlockingIOError:
                    await asyncio.sleep(0.005)
        raw.close()
        assert 0 < sent < 199 * 65536  # it had to wait
        (entry,) = office.connections
        terminal = entry.connection._protocol.terminal
        assert len(terminal._items) < 64 * 1024
        go_on.set()

    play(conversation)
