"""The directory database: which domains, users and aliases exist, and how passwords are checked.

A file's name is the key, its content the value, and a file changed by hand counts at the next look-up.
Plain synchronous Python; the caller decides on the thread. Not here: where mail goes (`mta.routing`), who
may log in (`mta.authentication`), what mailboxes hold (`mailbox`).
"""

from mailserver.directory.cache import Seen, is_unchanged
from mailserver.directory.database import Directory
from mailserver.directory.entries import Domain, Exists, Malformed, Missing, Unavailable, User

__all__ = [
    "Directory",
    "Domain",
    "Exists",
    "Malformed",
    "Missing",
    "Seen",
    "Unavailable",
    "User",
    "is_unchanged",
]
