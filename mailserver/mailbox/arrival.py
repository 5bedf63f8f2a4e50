"""A message on its way into a mailbox's `new`: a destination of `durable.commit`.

Not here: making content and directory durable, which the committer does for many at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from mailserver.mailbox import trouble
from mailserver.mailbox.tree import open_directory, opened

if TYPE_CHECKING:
    from mailserver.mailbox.maildir import Maildir

# Another file system, too many links, or a file system or policy without hard links: copy instead.
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}
_BLOCK = 1 << 20


class Arrival:
    """One message's name in one mailbox."""

    def __init__(self, maildir: Maildir, name: str) -> None:
        self.directory = f"{maildir.path}/new"
        self._maildir = maildir
        self._name = name
        self._linked = False

    def open(self) -> int:
        """A descriptor of `new`; makes the mailbox if need be. Raises OSError."""
        try:
            return open_directory(self.directory)
        except FileNotFoundError:
            self._maildir.create()
            return open_directory(self.directory)

    def link(self, source: str, directory: int, *, last: bool) -> bool:
        """Give the content at `source` its name in `new`, which is open as `directory`. Raises OSError.

        Returns whether it is on the file system of `source`.
        """
        try:
            if last:
                os.rename(source, self._name, dst_dir_fd=directory)
            else:
                os.link(source, self._name, dst_dir_fd=directory)
            self._linked = True
            return True
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        try:
            self._copy(source, directory)
        except FileNotFoundError:  # no `tmp`
            self._maildir.create()
            self._copy(source, directory)
        self._linked = True
        if last:
            os.unlink(source)
        return False

    def unlink(self) -> None:
        """Take the message back; silent when it is gone, and never raises."""
        try:
            with opened(self._maildir.path, "new") as new:
                os.unlink(self._name, dir_fd=new)
        except FileNotFoundError:
            return
        except OSError as error:
            if self._linked:  # the sender hears of a failure and sends it again: a second copy
                trouble.log("not-taken-back", self._maildir.path, error)

    def _copy(self, source: str, new: int) -> None:
        """The content through the mailbox's own `tmp`, durable block by block, so never torn in `new`."""
        with opened(self._maildir.path, "tmp") as tmp:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DSYNC
                copy = os.open(self._name, flags, 0o600, dir_fd=tmp)
                with open(source, "rb", buffering=0) as file, os.fdopen(copy, "wb", buffering=0) as target:
                    while block := memoryview(file.read(_BLOCK)):
                        while block:
                            block = block[target.write(block) :]
                os.rename(self._name, self._name, src_dir_fd=tmp, dst_dir_fd=new)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(self._name, dir_fd=tmp)
                raise
