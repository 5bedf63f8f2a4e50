"""The control socket of a started server: phrases and JSON in, lines of JSON out, streams until one leaves."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import serving
from operating import Operator, Refused

from mailserver.admin import refused
from mailserver.console import client

NOBODY = pwd.getpwnam("nobody")


class Begun(NamedTuple):
    site: serving.Site
    server: serving.Server

    def operator(self) -> Operator:
        return Operator(self.site.mail)

    @property
    def path(self) -> str:
        return str(self.site.mail / ".run" / "control.sock")


@pytest.fixture(scope="module")
def begun() -> Iterator[Begun]:
    with serving.site() as site:
        site.configure([], top="workers = 1\n")
        with site.serve() as server:
            yield Begun(site, server)


def test_a_phrase_and_json_are_the_same(begun: Begun) -> None:
    with begun.operator() as operator:
        by_phrase = operator.ask("user show ann@example.test")
        by_json = operator.ask({"do": "user show", "with": {"address": "ann@example.test"}})
    assert by_phrase == by_json
    assert by_phrase[0]["address"] == "ann@example.test"


def test_requests_are_answered_in_order_however_they_come(begun: Begun) -> None:
    with begun.operator() as operator:
        operator.sock.sendall(b"whoami\nuser list\r\n\nuser show nobody@example.test\nwho")
        operator.sock.sendall(b"ami\n")
        assert [line["name"] for line in operator.values()] == [
            "root" if os.getuid() == 0 else str(os.getuid())
        ]
        assert [line["address"] for line in operator.values()] == sorted(serving.USERS)
        with pytest.raises(Refused, match=r"no user nobody@example\.test"):
            list(operator.values())
        assert [line["front"] for line in operator.values()] == ["control"]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ("frobnicate", "no such command"),
        ("user", "expected add"),
        ("user show", "needs ADDRESS"),
        ("user list 'x", "a quotation is not closed"),
        ("{", "expected {"),
        ('{"do": "whoami", "for": "fun"}', "expected {"),
        ('{"do": "whoami", "with": {"x": 1}}', "knows no 'x'"),
        ('{"do": ["whoami"]}', "expected {"),
        ('{"do": "no such"}', "no such command"),
        ("[" * 30_000, "at most"),
        ("\x01", "control characters"),
    ],
)
def test_nonsense_is_refused_and_the_conversation_goes_on(begun: Begun, request_: str, why: str) -> None:
    with begun.operator() as operator:
        with pytest.raises(Refused) as told:
            operator.ask(request_)
        assert why in str(told.value)
        assert "\n" not in str(told.value)
        assert operator.ask("whoami")
    begun.server.event("audit", front="control", outcome="refused")


def test_what_is_refused_is_in_the_log_and_not_what_was_typed(begun: Begun) -> None:
    with begun.operator() as operator:
        for asked in ("user passwd ann@example.test hunter2", "hunter2", "user list 'hunter2", '{"hunter2'):
            with pytest.raises(Refused):
                operator.ask(asked)
        operator.ask("counters")
    begun.server.event("audit", operation="user passwd", front="control", outcome="refused")
    begun.server.event("audit", operation="unknown", front="control", outcome="refused")
    begun.server.event("audit", operation="counters", front="control", outcome="done")
    assert "hunter2" not in begun.server.output


def test_a_line_without_end_is_refused_and_closed(begun: Begun) -> None:
    with begun.operator() as operator:
        operator.sock.sendall(b"x" * 70_000)
        assert operator.hear() == {"refused": "a request has at most 65536 octets"}
        assert operator.hear() == {}


def test_octets_that_are_no_text(begun: Begun) -> None:
    with begun.operator() as operator:
        operator.sock.sendall(b"\xff\xfe\n")
        assert operator.hear() == {"refused": "expected UTF-8"}


@pytest.mark.skipif(not shutil.which("socat"), reason="socat is not installed")
def test_socat_is_a_client(begun: Begun) -> None:
    said = subprocess.run(
        ["socat", "-t", "30", "-", f"UNIX:{begun.path}"],
        input="user list\nwhoami",
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert lines[3] == {"done": 3}
    assert lines[4]["value"]["role"] == "owner"


def test_a_secret_is_for_json_alone_and_not_for_the_log(begun: Begun) -> None:
    with begun.operator() as operator:
        operator.ask(
            {"do": "user add", "with": {"address": "new@example.test", "password": "correct horse battery"}}
        )
        assert operator.ask("user show new@example.test")
        operator.ask("user remove new@example.test")
    begun.server.event("audit", operation="user add", front="control", with_address="new@example.test")
    assert "correct horse" not in begun.server.output


def test_events_come_as_they_happen_until_the_client_leaves(begun: Begun) -> None:
    with begun.operator() as listener, begun.operator() as other:
        listener.say("events")
        begun.server.event("audit", operation="events", outcome="begun")
        while True:  # the stream begins after its audit
            other.ask("whoami")
            line = listener.hear()["value"]["line"]
            if "operation=whoami" in line:
                break
        listener.close()
        until_left(other, 1)


def until_left(operator: Operator, count: int) -> None:
    """Wait until so many operators are connected."""
    for _ in range(10_000):
        sessions = [one for one in operator.ask("session list") if one["protocol"] == "control"]
        if len(sessions) == count:
            return
    raise AssertionError(sessions)


def test_a_client_that_leaves_a_silent_stream_is_noticed(begun: Begun) -> None:
    """Nobody writes to it, so no write fails."""
    with begun.operator() as other:
        for _ in range(5):
            leaver = begun.operator()
            leaver.ask("whoami")
            leaver.say("status --watch")
            assert leaver.hear()["value"]["workers"] == 1
            leaver.close()
        until_left(other, 1)


def test_the_client_of_the_command_line(begun: Begun) -> None:
    assert [one["address"] for one in client.ask(begun.path, "user list", {})] == sorted(serving.USERS)
    with pytest.raises(refused.Refused, match="no domain"):
        list(client.ask(begun.path, "user list", {"domain": "else.test"}))
    states = client.ask(begun.path, "status --watch", {})
    assert next(states)["workers"] == 1
    states.close()
    with pytest.raises(client.NobodyThere):
        list(client.ask(begun.path + ".not", "whoami", {}))
    with pytest.raises(client.NobodyThere):
        list(client.ask("/tmp/" + "x" * 200, "whoami", {}))


def test_a_long_list_comes_whole(begun: Begun) -> None:
    users = begun.site.config / "domains" / "many.test" / "users"
    users.mkdir(parents=True)
    for number in range(5000):
        (users / f"u{number:05}").write_text(serving.HASH + "\n")
    try:
        with begun.operator() as slow, begun.operator() as other:
            slow.say({"do": "user list", "with": {"domain": "many.test"}})
            assert other.ask("whoami")  # while nobody reads the list
            assert len(list(slow.values())) == 5000
    finally:
        shutil.rmtree(users.parent)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_an_account_that_is_no_operators_is_shown_the_door(begun: Begun) -> None:
    for directory in (begun.site.root, begun.site.mail, begun.site.mail / ".run"):
        directory.chmod(0o711)
    assert as_nobody(begun.path) == {"refused": "this account of the machine is no operator's"}
    begun.site.write("operators/helper", f"{serving.HASH}\nrole = help-desk\naccount = nobody\n")
    assert as_nobody(begun.path)["value"]["name"] == "helper"


def as_nobody(path: str) -> dict[str, object]:
    script = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid})\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); sock.sendall(b'whoami\\n')\n"
        "print(sock.makefile().readline())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=serving.LIMIT
    )
    return json.loads(said.stdout)


STRANGERS = """
import os, select, socket, sys
os.setgid({gid}); os.setuid({uid})
there = [socket.socket(socket.AF_UNIX) for _ in range(60)]
for sock in there:
    sock.connect(sys.argv[1])
print("connected", flush=True)
print(max(sock.makefile().readline() for sock in there))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be another account")
def test_who_is_no_operator_keeps_nobody_out() -> None:
    with serving.site() as site:
        site.configure([], "[console]\nconnections = 40\n", top="workers = 1\n")
        with site.serve(command=serving.patched({"mailserver.console.control:STRANGER": 1.0})) as server:
            for directory in (site.mail.parent, site.mail, site.mail / ".run"):
                directory.chmod(0o711)
            program = STRANGERS.format(gid=NOBODY.pw_gid, uid=NOBODY.pw_uid)
            path = str(site.mail / ".run" / "control.sock")
            command = [sys.executable, "-c", program, path]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as strangers:
                assert strangers.stdout is not None
                assert strangers.stdout.readline() == "connected\n"
                with contextlib.ExitStack() as stack:
                    for _ in range(40):
                        assert stack.enter_context(Operator(site.mail)).ask("whoami")
                assert "no operator's" in strangers.stdout.readline()
            assert server.event("connection-refused")["limit"] == "before-login-per-address"


# ---- bounds, and the end


def test_operators_have_places_of_their_own() -> None:
    with serving.site() as site:
        port = site.ports.take()
        settings = '[limits]\nconnections = 1\n[console]\nconnections = 3\nidle_timeout = "1m"\n'
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")], settings, top="workers = 1\n")
        with site.serve() as server:
            with socket.create_connection(("127.0.0.1", port), serving.LIMIT) as mail:
                assert mail.recv(4) == b"220 "
                operators = [Operator(site.mail) for _ in range(3)]
                for operator in operators:
                    assert operator.ask("whoami")
                one_too_many = Operator(site.mail)
                assert one_too_many.hear() == {}
                for operator in (one_too_many, *operators):
                    operator.close()
            server.event("connection-refused", limit="connections")


def test_stopping_ends_streams_and_those_who_say_nothing() -> None:
    with serving.site() as site:
        site.configure([], top="workers = 1\n")
        with site.serve() as server:
            with Operator(site.mail) as idle, Operator(site.mail) as watcher, Operator(site.mail) as boss:
                assert idle.ask("whoami")
                watcher.say("status --watch")
                assert watcher.hear()
                assert boss.ask("stop") == []
                assert idle.hear() == {}
                while watcher.hear():
                    pass
            assert server.wait() == 0
            server.check()
            assert not Path(site.mail / ".run" / "control.sock").exists()
            assert list((site.mail / ".run" / "workers").iterdir()) == []


def test_a_console_that_is_killed_comes_back_and_streams_end(begun: Begun) -> None:
    with begun.operator() as listener:
        listener.say("events")
        begun.server.event("audit", operation="events", outcome="begun")
        console = begun.server.events("console-serving")[-1]["process"]
        os.kill(int(console), signal.SIGKILL)
        while listener.hear():
            pass
    begun.server.event("console-died", process=console)
    begun.server.event("console-serving")
    with begun.operator() as operator:
        assert operator.ask("status")[0]["workers"] == 1
