"""Root's commands make directories that the server, as another user, must be able to use."""

from __future__ import annotations

import os

from mailserver.durable import files
from mailserver.server.privileges import account


def make_for(path: str, user: str | None, group: str | None = None) -> None:
    """Make an absolute path unless it is there, for `user` if we are root. Raises PrivilegeError, OSError."""
    if os.path.isdir(path):
        return
    new = path
    while not os.path.exists(os.path.dirname(new)):
        new = os.path.dirname(new)
    files.make_directory(new)
    if user is not None and os.geteuid() == 0:
        os.chown(new, *account(user, group))
    files.make_directory(path)  # what is made below inherits its owner
