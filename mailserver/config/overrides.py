"""What the command line of `serve` says over the file. Not here: parsing the options (`cli.serve`)."""

from __future__ import annotations

import os

from msgspec import Struct
from msgspec.structs import replace

from mailserver.config.load import ConfigError, listener_problems
from mailserver.config.model import Config, Listener
from mailserver.config.private import misplaced

SOURCE = "command line"


class Overrides(Struct, frozen=True, kw_only=True):
    """Values that stand in for the file's; None and empty leave the file's alone."""

    listeners: tuple[Listener, ...] = ()
    """They replace all configured listeners of the same protocols."""
    user: str | None = None
    group: str | None = None
    allow_root: bool = False
    log_file: str | None = None
    pid_file: str | None = None

    def apply(self, config: Config) -> Config:
        """`config` with these values. Raises ConfigError when they do not fit together.

        Relative paths count from the working directory, as everywhere on a command line.
        """
        spoken = {listener.protocol for listener in self.listeners}
        kept = tuple(listener for listener in config.listeners if listener.protocol not in spoken)
        listeners = kept + self.listeners
        for key, problem in listener_problems(listeners):
            raise ConfigError(SOURCE, key, problem)
        changed = replace(
            config,
            listeners=listeners,
            user=self.user or config.user,
            group=self.group or config.group,
            allow_root=self.allow_root or config.allow_root,
            log_file=os.path.abspath(self.log_file) if self.log_file else config.log_file,
            pid_file=os.path.abspath(self.pid_file) if self.pid_file else config.pid_file,
        )
        for key, problem in misplaced(changed):
            raise ConfigError(SOURCE, key, problem)
        return changed
