"""What a running server does by itself: looking for files changed by hand, and sweeping mailboxes.

Not here: what a change means (`server.appliance` reloads), which mail has expired (`mailbox.sweep`).
"""

from __future__ import annotations

import os

from mailserver.config.load import FILE
from mailserver.mailbox.sweep import Sweeper
from mailserver.pool import Pool

WATCH_INTERVAL = 5.0  # seconds
SWEEP_INTERVAL = 3600.0


class Watch:
    """Remembers the settings file and the certificates as they were when last looked at.

    Made before they are read, so that a change while a server starts is one, too.
    """

    def __init__(self, directory: str) -> None:
        """Looks for the first time at the configuration in `directory`."""
        self._settings = os.path.join(directory, FILE)
        self._certificates = os.path.join(directory, "tls")
        self._seen = [_look(path) for path in self._files()]

    def changed(self) -> bool:
        """Whether a file is another one than last time; missing files count too."""
        before, self._seen = self._seen, [_look(path) for path in self._files()]
        return before != self._seen

    def _files(self) -> list[str]:
        files = [self._settings]
        try:
            names = sorted(os.listdir(self._certificates))
        except OSError:
            names = []
        for name in names:
            files += [
                os.path.join(self._certificates, name, f"{part}.pem") for part in ("fullchain", "privkey")
            ]
        return files


def _look(path: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return path, 0, 0, 0
    return path, status.st_mtime_ns, status.st_size, status.st_ino


async def sweep(sweeper: Sweeper, pool: Pool) -> int:
    """One pass over all mailboxes, step by step; how many files it removed. Raises Busy."""
    removed = 0
    steps = sweeper.sweep()
    while (count := await pool.run(next, steps, None)) is not None:
        removed += count
    return removed
