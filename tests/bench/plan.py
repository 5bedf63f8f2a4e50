"""Which cells there are, and how much of each: for a full run, and for the short one of CI."""

from __future__ import annotations

from cells import BigMailbox, Cell, Idle, Inbound, LargeMessage, Maildrops, Relayed
from loads import Mail

KIB = 1024

FULL: tuple[Cell, ...] = (
    Inbound("in-1", "in, 4 KiB, 1 session", Mail(1000, 1, 4 * KIB)),
    Inbound("in-10", "in, 4 KiB, 10 sessions", Mail(5000, 10, 4 * KIB)),
    Inbound("in-50", "in, 4 KiB, 50 sessions", Mail(6000, 50, 4 * KIB)),
    Inbound("in-new", "in, 4 KiB, a connection each", Mail(4000, 10, 4 * KIB, keep_open=False)),
    Inbound("in-rcpt", "in, 4 KiB, ten recipients", Mail(600, 10, 4 * KIB, recipients=10)),
    Inbound("in-100k", "in, 100 KiB, 10 sessions", Mail(2000, 10, 100 * KIB)),
    Relayed("relay", "relayed, 4 KiB, 10 sessions", Mail(4000, 10, 4 * KIB)),
    Relayed("relay-50", "relayed, 4 KiB, 50 sessions", Mail(4000, 50, 4 * KIB)),
    Maildrops("pop3", 100, 100, 4 * KIB),
    BigMailbox("box-10k", 10_000),
    BigMailbox("box-50k", 50_000),
    LargeMessage("large", 50_000_000),
    Idle("idle", 10_000),
)

SHORT: tuple[Cell, ...] = (
    Inbound("in-1", "in, 4 KiB, 1 session", Mail(200, 1, 4 * KIB)),
    Inbound("in-10", "in, 4 KiB, 10 sessions", Mail(1000, 10, 4 * KIB)),
    Inbound("in-50", "in, 4 KiB, 50 sessions", Mail(1000, 50, 4 * KIB)),
    Inbound("in-new", "in, 4 KiB, a connection each", Mail(800, 10, 4 * KIB, keep_open=False)),
    Inbound("in-rcpt", "in, 4 KiB, ten recipients", Mail(100, 10, 4 * KIB, recipients=10)),
    Inbound("in-100k", "in, 100 KiB, 10 sessions", Mail(400, 10, 100 * KIB)),
    Relayed("relay", "relayed, 4 KiB, 10 sessions", Mail(800, 10, 4 * KIB)),
    Relayed("relay-50", "relayed, 4 KiB, 50 sessions", Mail(1000, 50, 4 * KIB)),
    Maildrops("pop3", 40, 50, 4 * KIB),
    BigMailbox("box-10k", 10_000),
    BigMailbox("box-50k", 50_000),
    LargeMessage("large", 50_000_000),
    Idle("idle", 1000),
)

SHORT_DEFAULT = ("in-10", "in-new", "relay", "pop3")  # what `--short` runs when no cells are named
