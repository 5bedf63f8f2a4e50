"""The load generators: Postfix's smtp-source and smtp-sink, pop3_client.py. Each a process of its own.

What they cost themselves is measured and reported, so that a figure can be told from their limit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mailboxes
from sink import Sink
from target import DOMAIN, PASSWORD, Target, TargetFailed, Unavailable, user, wait_until

PATIENCE = 30.0  # seconds without a new message until what is missing counts as lost
GLANCE = 0.02  # seconds between looks at what has come: looking costs a core, which is the target's to have
ELSEWHERE = "sink.test"  # a domain of nobody here
_SPREAD = 10  # mailboxes, each with a generator of its own
_CLIENT_PROCESSES = 2  # of a POP3 load: one core must not be its limit


class Load(NamedTuple):
    """`seconds` until everything was where it belongs; `cpu`: seconds the generator itself took."""

    seconds: float
    cpu: float


class Mail(NamedTuple):
    """A shape of SMTP load. `octets` is the size of the body; one recipient or `_SPREAD`."""

    messages: int
    sessions: int
    octets: int
    recipients: int = 1
    keep_open: bool = True


def smtp_source() -> str:
    """Raises Unavailable."""
    found = shutil.which("smtp-source", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not found:
        raise Unavailable("needs smtp-source, of the package postfix")
    return found


def send(target: Target, mail: Mail) -> Load:
    """Send, and wait until every message is in every recipient's `new/`. Raises TargetFailed."""
    commands = _commands(target, mail)
    expected = dict.fromkeys(range(mail.recipients), mail.messages)
    if mail.recipients == 1:
        share = mail.messages // len(commands)
        expected = dict.fromkeys(range(len(commands)), share)
    began = time.monotonic()
    cpu = _run_all(commands, target)
    _await(target, expected)
    seconds = time.monotonic() - began
    _check(target, expected, mail.octets * 9 // 10)  # CR of each line may be gone
    return Load(seconds, cpu)


def relay(target: Target, mail: Mail, sink: Sink) -> Load:
    """Send mail for elsewhere, and wait until the sink has received every message. Raises TargetFailed."""
    command = [*_source(mail, 1), "-t", f"box@{ELSEWHERE}", f"unix:{target.submission()}"]
    before, cpu_before = sink.received, sink.cpu
    wanted = before + mail.messages
    began = time.monotonic()
    cpu = _run_all([command], target)
    _keep_waiting(lambda: sink.received, wanted)
    seconds = time.monotonic() - began
    target.settle()
    if sink.received != wanted:
        raise TargetFailed(
            f"{target.name}: {mail.messages} messages acknowledged, {sink.received - before} relayed"
        )
    return Load(seconds, cpu + sink.cpu - cpu_before)


def _commands(target: Target, mail: Mail) -> list[list[str]]:
    """One generator for each mailbox: all in one would make one directory the whole load."""
    parts = 1 if mail.recipients > 1 else min(_SPREAD, mail.sessions)
    return [
        [*_source(mail, parts), "-t", f"{user(number)}@{DOMAIN}", f"127.0.0.1:{target.smtp_port}"]
        for number in range(parts)
    ]


def _source(mail: Mail, parts: int) -> list[str]:
    """The command of one of `parts` generators that share the load, without recipient and endpoint."""
    command = [smtp_source(), "-4", "-M", DOMAIN, "-f", f"sender@{DOMAIN}", "-l", str(mail.octets)]
    command += ["-s", str(mail.sessions // parts), "-m", str(mail.messages // parts)]
    return [*command, "-r", str(mail.recipients)] + (["-d"] if mail.keep_open else [])


def _run_all(commands: Sequence[Sequence[str]], target: Target) -> float:
    """Run them side by side; their CPU seconds."""
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    cpu = 0.0
    problems = []
    try:
        for process in running:
            assert process.stderr is not None
            problems.append(process.stderr.read().strip())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                process.wait()
    if any(process.returncode for process in running):
        raise TargetFailed(f"{target.name}: {next(filter(None, problems), 'smtp-source failed')}")
    return cpu


def _await(target: Target, expected: dict[int, int]) -> None:
    """Until the messages are all in their mailboxes. Raises TargetFailed."""
    wanted = sum(expected.values())
    now = _keep_waiting(lambda: sum(mailboxes.count(target.maildir(number)) for number in expected), wanted)
    if now != wanted:
        raise TargetFailed(f"{target.name}: {wanted} copies acknowledged, {now} in new/")


def _keep_waiting(present: Callable[[], int], wanted: int) -> int:
    """Wait until as many are there, as long as more keep coming; how many there are."""
    seen = -1
    while (now := present()) < wanted and now > seen:
        seen = now
        time.sleep(GLANCE)
        wait_until(lambda before=now: present() > before, PATIENCE, GLANCE)  # type: ignore[misc]
    return now


def _check(target: Target, expected: dict[int, int], octets: int) -> None:
    for number, count in expected.items():
        path = target.maildir(number)
        if mailboxes.count(path) != count or mailboxes.short_messages(path, octets):
            raise TargetFailed(f"{target.name}: {user(number)} has not {count} whole messages")


def read(
    target: Target, users: dict[int, list[int]], *, clients: int, retrieve: int = -1, delete: bool = False
) -> Load:
    """One POP3 session for each user (number: sizes of the messages). Raises TargetFailed."""
    named = [(f"{user(number)}@{DOMAIN}", sizes) for number, sizes in users.items()]
    parts = min(_CLIENT_PROCESSES, clients)
    running = [
        _client(target, named[part::parts], clients // parts, retrieve, delete) for part in range(parts)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outcomes = [process.communicate() for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, problem) in zip(running, outcomes, strict=True):
        if process.returncode:
            raise TargetFailed(f"{target.name}: {(problem.strip().splitlines() or ['POP3 load failed'])[-1]}")
    reports = [json.loads(output) for output, _ in outcomes]
    seconds = max(report["ended"] for report in reports) - min(report["began"] for report in reports)
    return Load(seconds, sum(report["cpu"] for report in reports))


def _client(
    target: Target, users: list[tuple[str, list[int]]], clients: int, retrieve: int, delete: bool
) -> subprocess.Popen[str]:
    """A POP3 load that has its plan and waits for the word."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pop3_client.py")
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, program], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    plan = {
        "port": target.pop3_port,
        "password": PASSWORD,
        "users": users,
        "clients": clients,
        "retrieve": retrieve,
        "delete": delete,
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan) + "\n")
    process.stdin.flush()
    return process
