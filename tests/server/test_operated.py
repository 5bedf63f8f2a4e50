"""What operators do to a running server: sessions, reload, drain, listeners, changes that wait to be confirmed."""

from __future__ import annotations

import contextlib
import os
import poplib
import signal
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import serving
from operating import Operator, Refused

BUSY = "Address already in use"


class Begun(NamedTuple):
    site: serving.Site
    server: serving.Server
    smtp: int
    pop3: int
    other: int

    def operator(self) -> Operator:
        return Operator(self.site.mail)

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp, timeout=serving.LIMIT)


@pytest.fixture
def begun() -> Iterator[Begun]:
    with serving.site() as site:
        smtp, pop3, other = (site.ports.take() for _ in range(3))
        listeners = [("smtp", f"tcp:127.0.0.1:{smtp}"), ("pop3", f"tcp:127.0.0.1:{pop3}")]
        site.configure(listeners, '[limits]\ndrain_timeout = "20s"\n', top="workers = 2\n")
        with site.serve() as server:
            server.event("console-serving")
            yield Begun(site, server, smtp, pop3, other)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + serving.LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- sessions


def mail_sessions(operator: Operator) -> list[dict[str, object]]:
    return [one for one in operator.ask("session list") if one["protocol"] != "control"]


def test_sessions_of_all_workers_are_listed(begun: Begun) -> None:
    with begun.operator() as operator, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(begun.client())
        reader = poplib.POP3("127.0.0.1", begun.pop3, timeout=serving.LIMIT)
        reader.user("ann")
        reader.pass_(serving.PASSWORD)
        found = mail_sessions(operator)
        assert sorted(one["protocol"] for one in found) == ["pop3", *["smtp"] * 20]
        assert {one["user"] for one in found} == {"", "ann@example.test"}
        assert {one["peer"] for one in found} == {"127.0.0.1"}
        assert len({one["id"] for one in found}) == 21
        assert operator.ask("status")[0]["connections"] == 22
        reader.quit()
    with begun.operator() as operator:
        until(lambda: not mail_sessions(operator))


def test_an_idle_session_is_ended_politely(begun: Begun) -> None:
    with begun.operator() as operator, begun.client() as client, begun.client() as neighbour:
        client.ehlo()
        mine, _ = sorted(mail_sessions(operator), key=lambda one: int(str(one["id"]).split("-")[1]))
        ids = [str(one["id"]) for one in mail_sessions(operator)]
        for number in ids:
            assert operator.ask(f"session close {number}") == []
        assert client.getreply()[0] == 421
        assert neighbour.getreply()[0] == 421
        with pytest.raises(Refused, match="no such session"):
            operator.ask(f"session close {mine['id']}")
        for nonsense in ("x", "1-1", "-", "1-2-3", f"{begun.server.pid}-1"):
            with pytest.raises(Refused, match="no such session"):
                operator.ask({"do": "session close", "with": {"id": nonsense}})


def test_a_session_in_a_message_ends_after_it(begun: Begun) -> None:
    with begun.operator() as operator, begun.client() as client:
        client.ehlo()
        client.mail("a@client.test")
        client.rcpt("ann@example.test")
        assert client.docmd("DATA")[0] == 354
        [session] = mail_sessions(operator)
        operator.ask(f"session close {session['id']}")
        client.send(b"Subject: x\r\n\r\ny\r\n.\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
    assert len(begun.site.messages("ann")) == 1


def test_a_pop3_session_ends_without_a_word(begun: Begun) -> None:
    """RFC 1939 §3: and nothing is removed."""
    with smtplib.SMTP("127.0.0.1", begun.smtp) as client:
        client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
    reader = poplib.POP3("127.0.0.1", begun.pop3, timeout=serving.LIMIT)
    reader.user("ann")
    reader.pass_(serving.PASSWORD)
    reader.dele(1)
    with begun.operator() as operator:
        [session] = [one for one in mail_sessions(operator) if one["protocol"] == "pop3"]
        operator.ask(f"session close {session['id']}")
    assert reader.sock.recv(100) == b""
    reader.close()
    assert len(begun.site.messages("ann")) == 1


# ---- reload


def test_a_reload_answers_for_what_it_did(begun: Begun) -> None:
    with begun.operator() as operator:
        assert operator.ask("reload") == []
        begun.site.write("mailserver.toml", "hostname = [")
        with pytest.raises(Refused, match="no valid TOML"):
            operator.ask("reload")
        assert operator.ask("whoami")


def test_certificates_that_were_so_at_the_start_keep_nobody_from_changes() -> None:
    with serving.site() as site:
        site.configure([("smtp", f"tcp:127.0.0.1:{site.ports.take()}")])
        (site.config / "tls" / serving.HOST).rename(site.config / "tls" / "former.test")
        site.write("tls/broken.test/fullchain.pem", "broken")
        with site.serve() as server:
            [problem] = server.events("certificate-problem")  # the first serves well as the default one
            assert "broken.test" in problem["problem"]
            server.event("console-serving")
            with Operator(site.mail) as operator:
                operator.ask("reload")
                operator.ask("config set limits.recipients 500")


def test_workers_follow_their_number(begun: Begun) -> None:
    with begun.operator() as operator:
        for number in (3, 1, 2):
            operator.ask(f"config set workers {number}")
            until(lambda number=number: operator.ask("status")[0]["workers"] == number)
        assert begun.server.events("worker-died") == []


def test_an_operator_outlives_what_he_changes(begun: Begun) -> None:
    with begun.operator() as operator, begun.client() as old:
        for recipients in (200, 300, 400):
            operator.ask(f"config set limits.recipients {recipients}")
            with begun.client() as client:
                client.ehlo()
                assert client.esmtp_features["limits"] == f"RCPTMAX={recipients}"
        old.ehlo()
        assert old.esmtp_features["limits"] == "RCPTMAX=1000"


def test_a_listener_that_cannot_be_had_is_the_answer_and_the_change_goes_back(begun: Begun) -> None:
    before = (begun.site.config / "mailserver.toml").read_bytes()
    with begun.operator() as operator, socket.socket() as other:
        other.bind(("127.0.0.2", begun.other))
        other.listen()
        for protocol in ("smtp", "telnet"):
            with pytest.raises(Refused, match=BUSY):
                operator.ask(f"listener add {protocol} tcp:127.0.0.2:{begun.other}")
            assert (begun.site.config / "mailserver.toml").read_bytes() == before
            assert len(operator.ask("listener list")) == 2  # nor is it in force
        other.close()
        operator.ask(f"listener add smtp tcp:127.0.0.2:{begun.other}")
        with socket.create_connection(("127.0.0.2", begun.other), serving.LIMIT) as sock:
            assert sock.recv(4) == b"220 "


def test_a_listener_is_paused_and_resumed(begun: Begun) -> None:
    endpoint = f"tcp:127.0.0.1:{begun.smtp}"
    with begun.operator() as operator, begun.client() as client:
        operator.ask(f"listener pause {endpoint}")
        assert not listens(begun.smtp)
        assert client.noop()[0] == 250
        operator.ask(f"listener resume {endpoint}")
        with begun.client() as another:
            assert another.noop()[0] == 250


def test_listeners_of_operators_come_and_go_live(begun: Begun) -> None:
    pytest.importorskip("twisted")
    with begun.operator() as operator:
        operator.ask(f"listener add telnet tcp:127.0.0.1:{begun.other}")
        with socket.create_connection(("127.0.0.1", begun.other), serving.LIMIT) as telnet:
            assert telnet.recv(3)
            operator.ask(f"listener remove tcp:127.0.0.1:{begun.other}")
            assert not listens(begun.other)
            telnet.sendall(b"\xff\xfd\x06")  # DO TIMING-MARK: answered, for the session goes on
            assert telnet.recv(100)
            operator.ask(f"listener add pb tcp:127.0.0.1:{begun.other}")
            assert listens(begun.other)
            assert "telnet" in [one["protocol"] for one in operator.ask("session list")]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_port_goes_from_mail_to_operators_and_back(begun: Begun, kind: str) -> None:
    pytest.importorskip("twisted")
    place = f"tcp:127.0.0.1:{begun.other}" if kind == "tcp" else f"unix:{begun.site.mail}/x.sock"

    def greeting() -> bytes:
        with socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as sock:
            sock.settimeout(serving.LIMIT)
            sock.connect(("127.0.0.1", begun.other) if kind == "tcp" else place.removeprefix("unix:"))
            return sock.recv(2)

    mail, telnet = b"22", b"\xff\xfb"
    with begun.operator() as operator:
        operator.ask(f"listener add smtp {place}")
        for _ in range(2):
            operator.ask(f"config set 'listener[{place}].protocol' telnet")
            assert greeting() == telnet
            operator.ask(f"config set 'listener[{place}].protocol' smtp")
            assert greeting() == mail
        for protocol, there in (("telnet", mail), ("smtp", telnet)):
            operator.ask(f"config set 'listener[{place}].protocol' {protocol} --confirm 1s")
            assert greeting() != there
            begun.server.event("config-taken-back")
            begun.server.event("reloaded")
            until(lambda there=there: listens_at(greeting) == there)
            operator.ask(f"config set 'listener[{place}].protocol' {protocol}")
            assert greeting() != there
        assert begun.server.events("listener-failed") == []


def listens_at(greeting: Callable[[], bytes]) -> bytes:
    try:
        return greeting()
    except OSError:
        return b""


# ---- the end


def test_drain_lets_sessions_run_to_their_end(begun: Begun) -> None:
    with begun.operator() as operator:
        client = begun.client()
        assert operator.ask("drain") == []
        until(lambda: not listens(begun.smtp))
        with pytest.raises(Refused, match="stopping"):
            operator.ask("reload")
        assert operator.ask("status")[0]["connections"] >= 2
        client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
        assert begun.server.process.poll() is None
        client.quit()
        assert operator.hear() == {}
    assert begun.server.wait() == 0
    assert len(begun.site.messages("ann")) == 1


def test_a_worker_that_does_not_answer_is_left_out(begun: Begun) -> None:
    with begun.operator() as operator:
        console = {int(one["process"]) for one in begun.server.events("console-serving")}
        children = Path(f"/proc/{begun.server.pid}/task/{begun.server.pid}/children").read_text().split()
        stuck = next(pid for pid in map(int, children) if pid not in console)
        os.kill(stuck, signal.SIGSTOP)
        try:
            assert operator.ask("session list")
            assert begun.server.event("worker-silent") == {"worker": str(stuck)}
        finally:
            os.kill(stuck, signal.SIGCONT)
        os.kill(stuck, signal.SIGKILL)
        begun.server.event("worker-died")
        assert operator.ask("session list")
        until(lambda: not (begun.site.mail / ".run" / "workers" / f"{stuck}.sock").exists())


def test_the_queue_is_asked_through_the_console(begun: Begun) -> None:
    with begun.operator() as operator:
        assert operator.ask("queue list") == []
        with pytest.raises(Refused, match="no message"):
            operator.ask("queue show M1")


# ---- changes that wait to be confirmed


def recipients(begun: Begun) -> str:
    with begun.client() as client:
        client.ehlo()
        return client.esmtp_features["limits"]


def test_what_nobody_confirms_goes_back_by_itself(begun: Begun) -> None:
    before = (begun.site.config / "mailserver.toml").read_bytes()
    with begun.operator() as operator:
        operator.ask("config set limits.recipients 500 --confirm 1s")
        assert recipients(begun) == "RCPTMAX=500"
        begun.server.event("config-taken-back")
        begun.server.event("reloaded")
        assert recipients(begun) == "RCPTMAX=1000"
        assert (begun.site.config / "mailserver.toml").read_bytes() == before


def test_what_is_confirmed_stays(begun: Begun) -> None:
    with begun.operator() as operator:
        operator.ask("config set limits.recipients 500 --confirm 2s")
        operator.ask("config confirm")
        operator.ask("config set limits.recipients 600 --confirm 1s")
        begun.server.event("config-taken-back")
        begun.server.event("reloaded")
        assert recipients(begun) == "RCPTMAX=500"


def test_what_a_person_edits_is_a_version_of_its_own(begun: Begun) -> None:
    file = begun.site.config / "mailserver.toml"
    with begun.operator() as operator:
        operator.ask("config set limits.recipients 500")
        file.write_text(file.read_text().replace("recipients = 500", "recipients = 700 # enough"))
        operator.ask("reload")
        assert [one["front"] for one in operator.ask("config history")] == ["by hand", "control", "by hand"]
        operator.ask("config set limits.received 300")
        assert "recipients = 700 # enough\n" in file.read_text()
        assert recipients(begun) == "RCPTMAX=700"


def test_a_console_that_dies_forgets_no_change(begun: Begun) -> None:
    with begun.operator() as operator:
        operator.ask("config set limits.recipients 500 --confirm 4s")
    os.kill(int(begun.server.events("console-serving")[-1]["process"]), signal.SIGKILL)
    begun.server.event("console-serving")
    begun.server.event("config-taken-back")
    begun.server.event("reloaded")
    assert recipients(begun) == "RCPTMAX=1000"


def test_a_server_that_is_killed_comes_back_with_what_was_confirmed() -> None:
    """An operator who has locked everybody out pulls the plug."""
    with serving.site() as site:
        port = site.ports.take()
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")], top="workers = 1\n")
        before = (site.config / "mailserver.toml").read_bytes()
        server = site.serve()
        with Operator(site.mail) as operator:
            operator.ask(f"listener pause tcp:127.0.0.1:{port} --confirm 10m")
        assert not listens(port)
        server.kill()
        assert (site.config / "mailserver.toml").read_bytes() != before
        with site.serve() as server:
            server.event("config-taken-back")
            with smtplib.SMTP("127.0.0.1", port, timeout=serving.LIMIT) as client:
                assert client.noop()[0] == 250
            assert (site.config / "mailserver.toml").read_bytes() == before
            with Operator(site.mail) as operator, pytest.raises(Refused, match="no change waits"):
                operator.ask("config confirm")


def test_what_a_server_began_with_is_a_version(begun: Begun) -> None:
    """Also where a person is the first to change the file."""
    file = begun.site.config / "mailserver.toml"
    before = file.read_text()
    with begun.operator() as operator:
        until(lambda: bool(operator.ask("config history")))
        file.write_text(before + "# more\n")
        operator.ask("reload")
        assert [one["number"] for one in operator.ask("config history")] == [1, 2]
        operator.ask("config rollback 1")
    assert file.read_text() == before


def test_a_message_is_explained_as_a_whole(begun: Begun) -> None:
    """One value, however many steps."""
    with begun.operator() as operator:
        [found] = operator.ask("explain postmaster@example.test")
        assert found["steps"]
