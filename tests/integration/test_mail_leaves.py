"""From a user's mail program to another host, over every trouble: what was answered with 250 arrives.

Programs submit while the smarthost is down. The server is killed (SIGKILL, the workers die with their parent) as
soon as each has heard its 250, and started again; the messages are in its queue. When the smarthost, a real
Postfix that wants verified TLS and a login, is back, it has them, whole.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple

import pytest
import relay_postfix
import serving
import trustme
from mail_programs import ANN, PROGRAMS, TEXT, THERE, Submission, python

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts only as root")

RELAY = """\
[[relay]]
name = "provider"
hosts = ["{host}:{port}"]
tls = "{tls}"
authorities = "{authorities}"
user = "{user}"
secret_file = "secrets/provider"
default = true
"""


class World(NamedTuple):
    """A configured server, the ports where it takes submitted mail, and a smarthost that is not running."""

    site: serving.Site
    starttls: int
    tls: int
    smarthost: relay_postfix.Smarthost

    @property
    def authorities(self) -> Path:
        """Our copy of the authorities by which the smarthost's certificate is good."""
        return self.site.config / "authorities.pem"

    @property
    def secret(self) -> Path:
        return self.site.config / "secrets" / "provider"

    def configure(self, tls: str = "required") -> None:
        port = self.smarthost.tls_port if tls == "implicit" else self.smarthost.port
        self.site.configure(
            [
                ("submission", f"tcp:127.0.0.1:{self.starttls}"),
                ("submission", f"tls:127.0.0.1:{self.tls}"),
            ],
            RELAY.format(
                host=relay_postfix.HOST,
                port=port,
                tls=tls,
                authorities=self.authorities,
                user=relay_postfix.USER,
            ),
        )
        shutil.copyfile(self.smarthost.authorities, self.authorities)
        self.secret.parent.mkdir(exist_ok=True)
        self.secret.touch(0o600)
        self.secret.write_text(relay_postfix.PASSWORD + "\n")

    def queue(self) -> list[dict[str, object]]:
        """What the operator sees in the queue."""
        done = self.site.run("queue", "list", "--json")
        assert done.returncode == 0, done.stderr
        listed: list[dict[str, object]] = json.loads(done.stdout)
        return listed


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with relay_postfix.stopped() as smarthost, serving.site() as site:
        yield World(site, site.ports.take(), site.ports.take(), smarthost)


WAYS = [(program, implicit) for program in PROGRAMS for implicit in (False, True)]


class Arrived(NamedTuple):
    """What became of each program's run, what was in the queue after the kill, and what the smarthost has."""

    runs: dict[str, Future[None]]
    queued: list[dict[str, object]]
    messages: list[EmailMessage]


def subject_of(program: Callable[[Submission], None], implicit: bool) -> str:
    return f"by {program.__name__} over {'TLS' if implicit else 'STARTTLS'}"


@pytest.fixture(scope="module", params=["required", "implicit"])
def arrived(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arrived]:
    """The story once, with all programs at the same time; the parameter is how the relay is spoken with."""
    world.configure(tls=request.param)
    runs = {}
    server = world.site.serve()
    try:
        with ThreadPoolExecutor(3) as threads:
            for program, implicit in WAYS:
                port, home = world.tls if implicit else world.starttls, tmp_path_factory.mktemp("home")
                subject = subject_of(program, implicit)
                one = Submission(port, implicit, str(world.site.certificate), subject, home)
                runs[subject] = threads.submit(program, one)
    finally:
        server.kill()
    with world.site.serve() as server:
        queued = world.queue()
        with world.smarthost.running():
            assert world.site.run("queue", "retry", "--all").returncode == 0
            for one in queued:
                server.says(f"event=settled id={one['id']} delivered=1")
            for told in server.events("delivery"):
                if told["outcome"] == "delivered":
                    world.smarthost.sent(told["reply"])
    yield Arrived(runs, queued, [read(content) for content in world.smarthost.messages("ann")])
    world.smarthost.empty("ann")


@pytest.mark.parametrize(("program", "implicit"), WAYS, ids=[subject_of(*way) for way in WAYS])
def test_what_a_program_submitted_arrives(
    arrived: Arrived, program: Callable[[Submission], None], implicit: bool
) -> None:
    subject = subject_of(program, implicit)
    arrived.runs[subject].result()
    (message,) = [message for message in arrived.messages if message["Subject"] == subject]
    assert message.get_content() == TEXT
    assert message["Return-Path"] == f"<{ANN}>"
    assert message["From"] == ANN
    assert message["Date"]
    assert message["Message-ID"]
    by_them, by_us = message.get_all("Received", [])
    assert " with ESMTPSA id " in by_them
    assert " with ESMTPSA id " in by_us
    assert [one["recipients"] for one in arrived.queued if f" id {one['id']}" in by_us] == [[THERE]]


def test_nothing_is_left(arrived: Arrived, world: World) -> None:
    assert len(arrived.messages) == len(arrived.queued)
    for state in ("tmp", "msg", "env"):
        assert list((world.site.mail / ".queue" / state).iterdir()) == []


@pytest.fixture
def submit(world: World, tmp_path: Path) -> Callable[[str, str], None]:
    """A message by smtplib, to somebody, with a subject."""

    def by_python(to: str, subject: str) -> None:
        python(Submission(world.tls, True, str(world.site.certificate), subject, tmp_path), to)

    return by_python


@pytest.mark.parametrize("fault", ["login", "certificate"])
def test_a_smarthost_that_refuses_us_is_trouble_for_the_operator(
    world: World, submit: Callable[[str, str], None], fault: str
) -> None:
    """No message goes back to anybody; all go when it is mended, without a restart."""
    world.configure()
    if fault == "login":
        world.secret.write_text("wrong\n")
    else:
        trustme.CA().cert_pem.write_to_path(str(world.authorities))
    with world.smarthost.running(), world.site.serve() as server:
        for number in range(3):
            submit(THERE, f"{fault} {number}")
        for one in world.queue():
            told = server.says(f"event=delivery id={one['id']} .*outcome=(.*)")
            assert told[1].startswith("deferred ")
        (trouble,) = server.events("relay-trouble")
        assert trouble["relay"] == "provider"
        tested = world.site.run("relay", "test", "provider")
        assert tested.returncode == 1
        assert {"login": "535", "certificate": "certificate is not accepted"}[fault] in tested.stdout

        world.secret.write_text(relay_postfix.PASSWORD + "\n")
        shutil.copyfile(world.smarthost.authorities, world.authorities)
        tested = world.site.run("relay", "test", "provider")
        assert tested.returncode == 0, tested.stdout
        waiting = world.queue()
        assert world.site.run("queue", "retry", "--all").returncode == 0
        for one in waiting:
            server.says(f"event=settled id={one['id']} delivered=1")
    assert world.site.messages(ANN) == []


def test_what_the_smarthost_refuses_comes_back(world: World, submit: Callable[[str, str], None]) -> None:
    world.configure()
    with world.smarthost.running(), world.site.serve() as server:
        submit("nobody@there.test", "to nobody")
        server.event("settled", failed=1)
    (report,) = map(read, world.site.messages(ANN))
    assert report["Return-Path"] == "<>"
    assert report.get_content_type() == "multipart/report"
    words, status, returned = map(str, report.iter_parts())
    assert "<nobody@there.test>: Recipient address rejected: User unknown" in " ".join(words.split())
    assert "\nStatus: 5.1.1\n" in status
    assert "\nSubject: to nobody\n" in returned


def test_what_cron_hands_over(world: World) -> None:
    """`sendmail -t` beside the server, and into the queue while none runs; both go when there is one again."""
    world.configure()

    def hand_over(subject: str) -> None:
        letter = f"To: {THERE}\nSubject: {subject}\n\nDone.\n"
        done = world.site.run("sendmail", "-t", "-i", "-f", ANN, stdin=letter)
        assert done.returncode == 0, done.stderr

    with world.site.serve():
        hand_over("beside the server")
    hand_over("without a server")
    with world.smarthost.running(), world.site.serve() as server:
        assert world.site.run("queue", "retry", "--all").returncode == 0
        for _ in range(2):
            server.event("settled", delivered=1)
        for told in server.events("delivery"):
            world.smarthost.sent(told["reply"])
    subjects = {read(content)["Subject"] for content in world.smarthost.messages("ann")}
    assert {"beside the server", "without a server"} <= subjects


def read(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message
