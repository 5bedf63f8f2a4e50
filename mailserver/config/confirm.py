"""The last confirmed configuration, for a server that was killed while a change waited to be confirmed.

Not here: the change itself (`editing`), what is kept of it (`pending`), the running time (`server`).
"""

from __future__ import annotations

from mailserver.config.editing import Settings
from mailserver.config.versioned import Author, TakenBack

AUTO_REVERT = Author("mailserver", "auto-revert")


def restore_unconfirmed(directory: str) -> TakenBack | None:
    """Before the configuration is read first: take back what nobody has confirmed; None: nothing waits.

    Raises EditRefused, ConfigError, OSError.
    """
    settings = Settings(directory)
    return settings.take_back(AUTO_REVERT) if settings.pending() is not None else None
