"""The dialogues of SMTP, LMTP and submission: what their settings mean, in memory and against a started server.

memory: WHY                   not played against a started server
protocol: lmtp                or smtp, or submission: the corpus's own by default
secure: yes                   over TLS from the first octet
peer: unix UID                over a UNIX socket, as this user
login: USER                   begins logged in; otherwise one without a greeting begins after it
size: N, recipients: N        limits
hourly: N                     messages a user may send
others: USER SENDER...        further senders of a user
queue: no                     without one
got: USER N                   so many messages are in that user's `new` afterwards; all others are empty
content: USER TEXT            the last one's content
queued: SENDER RECIPIENT...   an entry of the queue, in any order, and no others; SRS(...) for a return address
queued-content: TEXT          of every entry
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from conversation import Dialogue, Step, read, unescape
from destinations import queued_content
from office import content, without_trace

from mailserver.mta.forwarding import Forwarding
from mailserver.queue.entry import Entry
from mailserver.queue.spool import Spool

PASSWORD = "open sesame"

HERE = Path(__file__).parent / "dialogues"
SUBMISSION = read(HERE / "submission")
DIALOGUES = read(HERE / "smtp") + SUBMISSION


def protocol(dialogue: Dialogue) -> str:
    return dialogue.setting("protocol", "submission" if dialogue in SUBMISSION else "smtp")


def given_senders(dialogue: Dialogue) -> dict[str, list[str]]:
    return {user: senders for user, *senders in map(str.split, dialogue.all("others"))}


def opening(dialogue: Dialogue) -> Dialogue:
    """The steps before the dialogue's own: the greeting, and a login where it begins with one."""
    steps = [("S~", "220 .*")]
    if user := dialogue.setting("login"):
        response = base64.b64encode(f"\0{user}@example.test\0{PASSWORD}".encode()).decode()
        steps += [
            ("C:", "EHLO client.test"),
            ("C:", f"AUTH PLAIN {response}"),
            ("S...", ""),
            ("S~", "235 .*"),
        ]
    elif dialogue.steps[0].kind.startswith("S"):
        steps = []  # it has its own
    return Dialogue("opening", dialogue.file, steps=[Step(kind, text, 0) for kind, text in steps])


def check_mailboxes(dialogue: Dialogue, mail: Path) -> None:
    """Everybody below `mail` has what the dialogue says."""
    expected = {
        user if "@" in user else f"{user}@example.test": int(n)
        for user, n in map(str.split, dialogue.all("got"))
    }
    found = Counter(f"{file.parts[-3]}@{file.parts[-4]}" for file in mail.glob("*/*/new/*"))
    assert found == expected
    for line in dialogue.all("content"):
        user, _, text = line.partition(" ")
        local, _, domain = user.partition("@")
        assert content(max((mail / (domain or "example.test") / local / "new").iterdir())) == unescape(text)


def check_queue(
    dialogue: Dialogue, spool: Spool, forwarding: Forwarding, before: Collection[str] = ()
) -> list[str]:
    """The queue has what the dialogue says, besides what was in it `before`; the new entries' ids."""
    entries = [spool.load(entry_id) for entry_id, _ in spool.ids() if entry_id not in before]
    found = [
        (_sender(entry, forwarding), *(str(queued.recipient.address) for queued in entry.recipients))
        for entry in entries
    ]
    assert sorted(found) == sorted(tuple(line.split()) for line in dialogue.all("queued"))
    for entry in entries:
        for line in dialogue.all("queued-content"):
            assert without_trace(queued_content(spool, entry)) == unescape(line)
    return [entry.id for entry in entries]


def _sender(entry: Entry, forwarding: Forwarding) -> str:
    if entry.sender is None:
        return "<>"
    original = forwarding.original(entry.sender)
    return f"SRS({original})" if original else str(entry.sender)
