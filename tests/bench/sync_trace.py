"""Runs a server under strace, sends it a few messages and shows every sync before each 250.

The judgement is in sync_order.py.
"""

from __future__ import annotations

import os
import shutil
import smtplib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import sync_order
from sync_order import Call, Message
from target import DOMAIN, Target, TargetFailed, Unavailable, user

_ALONE = 3
_TOGETHER = 12
_SHOWN = 60  # calls


def show(target: Target, tell: Callable[[str], None]) -> bool:
    """Is the order right? Raises Unavailable, TargetFailed."""
    if not shutil.which("strace"):
        raise Unavailable("needs the package strace")
    if target.name not in ("mailserver", "aiosmtpd", "sketch"):
        raise Unavailable(f"{target.name} answers 250 from its queue: its order is not that of new/")
    target.configure()
    output = os.path.join(target.state, "strace.log")
    command = ["strace", "-f", "-y", "-ttt", "-s", "1024", "-o", output, "-e", f"trace={sync_order.CALLS}"]
    try:
        target.start(command)
        _send(target)
    finally:
        target.stop()
    with open(output, errors="replace") as file:
        trace = sync_order.calls(file)
    return _judge(trace, target, tell)


def _send(target: Target) -> None:
    """Messages one by one, one with three recipients, then several sessions at once."""
    for number in range(_ALONE):
        _message(target, number, 1)
    _message(target, _ALONE, 3)
    with ThreadPoolExecutor(_TOGETHER) as sessions:
        numbers = range(_ALONE + 1, _ALONE + 1 + _TOGETHER)
        list(sessions.map(lambda number: _message(target, number, 1), numbers))


def _message(target: Target, number: int, recipients: int) -> None:
    to = [f"{user(index)}@{DOMAIN}" for index in range(recipients)]
    text = f"Subject: {sync_order.mark(number, recipients)}\r\n\r\n" + "A line of a message.\r\n" * 30
    try:
        with smtplib.SMTP("127.0.0.1", target.smtp_port, local_hostname=DOMAIN, timeout=30) as client:
            client.sendmail(f"sender@{DOMAIN}", to, text)
    except (OSError, smtplib.SMTPException) as error:
        raise TargetFailed(f"{target.name}: {error}") from None


def _judge(trace: list[Call], target: Target, tell: Callable[[str], None]) -> bool:
    messages = sync_order.messages(trace)
    tell(f"{target.name}: calls that decide whether an acknowledged message lasts (milliseconds)")
    shown = _relevant(trace, messages.values())
    for call in shown[:_SHOWN]:
        tell(f"{(call.time - shown[0].time) * 1000:9.2f}  {_words(call, target.state)}")
    if len(shown) > _SHOWN:
        tell(f"           ... and {len(shown) - _SHOWN} more")
    wrong = sync_order.violations(trace)
    if len(messages) != _ALONE + 1 + _TOGETHER:
        wrong.append(f"{_ALONE + 1 + _TOGETHER} messages sent, {len(messages)} seen")
    syncs = sum(call.is_sync for call in shown)
    tell(f"{len(messages)} messages, {syncs} syncs: " + ("WRONG" if wrong else "in order"))
    for line in wrong:
        tell(f"  {line}")
    return not wrong


def _relevant(trace: list[Call], messages: Iterable[Message]) -> list[Call]:
    """Writes of message files, their names, all syncs, and the replies around them, from the first 354 on."""
    sources: set[str] = set()
    replies = []
    for message in messages:
        sources |= message.sources
        replies.append(message.reply)
    first = next((call.begun for call in trace if call.reply == "354"), 0)
    return [
        call
        for call in trace
        if call.begun >= first
        and (
            call.is_sync
            or call.gives_name
            or call.descriptor in sources
            or call.reply == "354"
            or call in replies
        )
    ]


def _words(call: Call, state: str) -> str:
    if call.reply:
        return f"reply     {call.strings[0]}"
    if call.name.startswith(("rename", "link")):
        source, target = (_short(path, state) for path in call.paths)
        return f"{call.name:9} {source} -> {target}"
    return f"{call.name:9} {_short(call.descriptor, state)}"


def _short(path: str, state: str) -> str:
    """Below the state directory, the long unique name cut."""
    directory, name = os.path.split(os.path.relpath(path, state) if path.startswith(state) else path)
    return os.path.join(directory, name if len(name) <= 28 else name[:25] + "...")
