"""A mailbox in a temporary directory, and delivering to it as the server does."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from destinations import link

from mailserver.mailbox import quota, wire
from mailserver.mailbox.maildir import Maildir, Message, unique_name

Deliver = Callable[..., Message]


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    return Maildir(str(tmp_path / "example.test" / "alice"))


@pytest.fixture
def deliver(maildir: Maildir, tmp_path: Path) -> Deliver:
    """Deliver `content` as one message and return its place."""

    def deliver(content: bytes = b"Subject: x\n\nhi\n") -> Message:
        source = tmp_path / "staged"
        source.write_bytes(content)
        size = wire.length(io.BytesIO(content).read)
        unique = unique_name()
        arrival = maildir.arrival(unique, len(content), size)
        link(arrival, str(source))
        quota.add(maildir, len(content), 1)
        return Message(f"{unique},S={len(content)},W={size}", "new")

    return deliver
