"""What a remote host said, made fit to be kept, logged and put into a report.

From a remote reply a `mail.reply.Reply` is made here: one line of bounded length without control characters,
with an enhanced status code that agrees with the reply's own. Where no host said anything, its code is 0.
Not here: reading it from the network (`delivery.wire`).
"""

from __future__ import annotations

import re
from functools import lru_cache

from mailserver.mail.reply import Reply

TEXT = 1000  # characters that are kept

_STATUS = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![\d.])\s*")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def read(code: int, message: str) -> Reply:
    """The reply of a remote host; `message` may have several lines, each with its status (RFC 2034 §4)."""
    return _read(code, message[: 8 * TEXT])


@lru_cache(maxsize=128)  # most replies of a host are those it gave to the message before
def _read(code: int, message: str) -> Reply:
    status = ""
    texts = []
    for line in message.split("\n"):
        if match := _STATUS.match(line):
            status = status or f"{code // 100}.{match[2]}.{match[3]}"  # the class is the code's own
            line = line[match.end() :]
        texts.append(_UNSAFE.sub("?", line).strip())
    return Reply(code, status or f"{code // 100}.0.0", " ".join(filter(None, texts))[:TEXT])


def deferred(status: str, text: str) -> Reply:
    """A verdict of our own (code 0) that may be another one later; `status` lacks its class."""
    return Reply(0, f"4.{status}", _UNSAFE.sub("?", text)[:TEXT])


def failed(status: str, text: str) -> Reply:
    """A verdict of our own (code 0) that stays; `status` lacks its class."""
    return Reply(0, f"5.{status}", _UNSAFE.sub("?", text)[:TEXT])


def softened(reply: Reply) -> Reply:
    """A refusal that speaks of us or of the host, not of the message: to be tried again."""
    return reply._replace(status="4" + reply.status[1:]) if is_final(reply) else reply


def is_final(reply: Reply) -> bool:
    """Whether trying again is of no use. The status decides: it is ours, the code may be the host's."""
    return reply.status.startswith("5")
