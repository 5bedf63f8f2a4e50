"""A name given to content as a commit gives it, without the syncs."""

from __future__ import annotations

import os

from mailserver.durable.commit import Destination


def link(destination: Destination, source: str, *, last: bool = True) -> None:
    """Give the content at `source` its name at the destination. Raises OSError."""
    directory = destination.open()
    try:
        destination.link(source, directory, last=last)
    finally:
        os.close(directory)
