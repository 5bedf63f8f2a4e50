"""Root's commands make directories that the server, as another user, must be able to use."""

from __future__ import annotations

import os

from mailserver.durable import files
from mailserver.server.privileges import account


def make_for(path: str, user: str | None, group: str | None = None) -> None:
    """Make a directory unless it is there, for `user` if we are root. Raises PrivilegeError, OSError.

    What is made inside it later inherits its owner.
    """
    if os.path.isdir(path):
        return
    files.make_directory(path)
    if user is not None and os.geteuid() == 0:
        os.chown(path, *account(user, group))
