"""This mail server, as it is checked out: a configuration of its own, started like by a person.

Defaults everywhere, but for what the load needs: larger limits on size and on connections of one address,
a relay that takes as many connections as Postfix makes to one.
"""

from __future__ import annotations

import os
import sys

import mailboxes
from target import DOMAIN, MAILBOXES, PASSWORD_HASH, Target, is_root, user

_SETTINGS = """\
hostname = "mx.{domain}"
maildirs = "{maildirs}"
allow_root = {root}
log_file = "{log}"

[[listener]]
protocol = "smtp"
endpoint = "tcp:127.0.0.1:{smtp}"

[[listener]]
protocol = "pop3"
endpoint = "tcp:127.0.0.1:{pop3}"

[[relay]]
name = "sink"
hosts = ["127.0.0.1:{sink}"]
tls = "none"
connections = 20
default = true

[limits]
message_size = "100M"
connections = 30000
connections_per_address = 30000

[passwords]
upgrade = false
"""


class Mailserver(Target):
    """`mailserver --config DIR serve` of the Python that runs the benchmark."""

    name = "mailserver"
    protocols = frozenset({"smtp", "pop3", "relay"})

    def configure(self) -> None:
        users = os.path.join(self._config, "domains", DOMAIN, "users")
        os.makedirs(users)
        for number in range(MAILBOXES):
            with open(os.path.join(users, user(number)), "w") as file:
                file.write(PASSWORD_HASH + "\n")
            mailboxes.make(self.maildir(number), self.owner)
        with open(os.path.join(self._config, "mailserver.toml"), "w") as file:
            file.write(
                _SETTINGS.format(
                    domain=DOMAIN,
                    maildirs=os.path.join(self.state, "maildirs"),
                    root="true" if is_root() else "false",
                    log=os.path.join(self.state, "mailserver.log"),
                    smtp=self.smtp_port,
                    pop3=self.pop3_port,
                    sink=self.sink_port,
                )
            )

    @property
    def _config(self) -> str:
        return os.path.join(self.state, "config")

    def commands(self) -> list[list[str]]:
        return [[sys.executable, "-m", "mailserver", "--config", self._config, "serve"]]

    def maildir(self, number: int) -> str:
        return os.path.join(self.state, "maildirs", DOMAIN, user(number))

    def submission(self) -> str:
        return os.path.join(self.state, "maildirs", ".run", "submission.sock")

    def busy(self) -> bool:
        return bool(os.listdir(os.path.join(self.state, "maildirs", ".queue", "env")))
