"""A name given to content as a commit gives it, without the syncs; and content as it lies in the queue."""

from __future__ import annotations

import os

from mailserver.durable.commit import Destination, Prepared
from mailserver.queue.departure import Departure
from mailserver.queue.entry import Entry
from mailserver.queue.spool import Spool


def link(destination: Destination, source: str, *, last: bool = True) -> None:
    """Give the content at `source` its name at the destination. Raises OSError."""
    directory = destination.open()
    try:
        destination.link(source, directory, last=last)
    finally:
        os.close(directory)


def put(spool: Spool, departure: Departure, content: bytes) -> Entry:
    """Put a message into the queue; its entry."""
    source = os.path.join(spool.root, "tmp", departure.entry.id)
    with open(source, "wb") as file:
        file.write(content + departure.tail)
    if isinstance(departure, Prepared):
        departure.prepare(source)
    link(departure, source)
    return departure.entry


def queued_content(spool: Spool, entry: Entry) -> bytes:
    """A message's content as it lies in the queue."""
    with open(spool.open_content(entry), "rb") as file:
        return file.read(entry.size)
