"""Postfix and Dovecot, as Debian packages them, sharing Maildirs: Postfix delivers, Dovecot serves POP3.

Private instances (`tests/private.py`). Settings are the packages' defaults but for what the load needs and what is
better for the pair (see docs/benchmark.md).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import mailboxes

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import private
from target import DOMAIN, MAILBOXES, PASSWORD, Target, Unavailable, is_root, user

_MAIL_ID = 5000  # owner of the mailboxes: virtual(8) refuses to deliver as a system user
_WAITING = ("maildrop", "incoming", "active", "deferred")

_MAIN = """\
maillog_file = {state}/postfix.log
maillog_file_prefixes = {state}
myhostname = mx.{domain}
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {state}/mail
virtual_mailbox_maps = texthash:{state}/postfix/users
virtual_uid_maps = static:{mail_id}
virtual_gid_maps = static:{mail_id}
message_size_limit = 104857600
virtual_mailbox_limit = 0
relayhost = [127.0.0.1]:{sink}
"""

# smtpd with room for the idle connections
_MASTER = """\
127.0.0.1:{port} inet n - n - 2500 smtpd
submission unix n - n - 2500 smtpd
pickup unix n - n 60 1 pickup
"""

_DOVECOT = """\
log_path = {state}/dovecot.log
protocols = pop3
mail_location = maildir:{state}/mail/%d/%n
first_valid_uid = {mail_id}
default_client_limit = 20000
passdb {{
  driver = passwd-file
  args = username_format=%u {state}/dovecot/passwd
}}
userdb {{
  driver = static
  args = uid={mail_id} gid={mail_id} home={state}/mail/%d/%n
}}
service pop3-login {{
  # "High-performance mode" of Dovecot's documentation: a login process serves many connections.
  service_count = 0
  process_min_avail = 2
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
"""


class Pair(Target):
    """Postfix + Dovecot."""

    name = "postfix+dovecot"
    protocols = frozenset({"smtp", "pop3", "relay"})
    owner = (_MAIL_ID, _MAIL_ID)
    most_idle: Mapping[str, int] = {"smtp": 1000}  # a process each, of more than a megabyte

    def __init__(self, state: str) -> None:
        super().__init__(state)
        if not is_root():
            raise Unavailable("Postfix starts only as root")
        if not shutil.which("postconf") or not shutil.which("dovecot"):
            raise Unavailable("needs the packages postfix and dovecot-pop3d")
        version = subprocess.run(["dovecot", "--version"], capture_output=True, text=True).stdout
        if not version.startswith("2.3."):
            raise Unavailable(f"its configuration is for Dovecot 2.3, here is {version.strip()}")

    def configure(self) -> None:
        os.chmod(self.state, 0o755)
        values = {"state": self.state, "domain": DOMAIN, "mail_id": _MAIL_ID, "sink": self.sink_port}
        for number in range(MAILBOXES):
            mailboxes.make(self.maildir(number), self.owner)
        os.chown(os.path.join(self.state, "mail"), *self.owner)
        users = [f"{user(number)}@{DOMAIN}" for number in range(MAILBOXES)]
        root = Path(self.state)
        self._instances = (
            private.postfix(root, _MAIN.format(**values), _MASTER.format(port=self.smtp_port)),
            private.dovecot(root, _DOVECOT.format(port=self.pop3_port, **values)),
        )
        lines = [f"{name} {DOMAIN}/{name.partition('@')[0]}/\n" for name in users]
        (root / "postfix" / "users").write_text("".join(lines))
        # Dovecot's cache of logins does not cover passwd-file, so it gets what costs even less: clear text.
        lines = [f"{name}:{{PLAIN}}{PASSWORD}\n" for name in users]
        (root / "dovecot" / "passwd").write_text("".join(lines))

    def commands(self) -> list[list[str]]:
        return [instance.command for instance in self._instances]

    def environment(self) -> dict[str, str]:
        return super().environment() | self._instances[0].environment

    def maildir(self, number: int) -> str:
        return os.path.join(self.state, "mail", DOMAIN, user(number))

    def submission(self) -> str:
        return os.path.join(self.state, "queue", "public", "submission")

    def busy(self) -> bool:
        return any(_has_files(os.path.join(self.state, "queue", name)) for name in _WAITING)


def _has_files(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(path):
            if stat.S_ISDIR(entry.stat().st_mode) and not _has_files(entry.path):
                continue
            return True
    return False
