"""Postfix and Dovecot, as Debian packages them, sharing Maildirs: Postfix delivers, Dovecot serves POP3.

A second instance beside whatever the machine runs: its own configuration, queue and ports; /etc and
/var/spool are not touched. Settings are the packages' defaults but for what the load needs and what is
better for the pair (see docs/benchmark.md).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping

import mailboxes
from target import DOMAIN, MAILBOXES, PASSWORD, Target, Unavailable, is_root, user

_MAIL_ID = 5000  # owner of the mailboxes: virtual(8) refuses to deliver as a system user
_QUEUES = (
    "active",
    "bounce",
    "corrupt",
    "defer",
    "deferred",
    "flush",
    "hold",
    "incoming",
    "private",
    "saved",
)
_WAITING = ("maildrop", "incoming", "active", "deferred")

_MAIN = """\
compatibility_level = 3.6
queue_directory = {state}/queue
data_directory = {state}/data
maillog_file = {state}/postfix.log
maillog_file_prefixes = {state}
multi_instance_name = postfix-bench
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.{domain}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {state}/mail
virtual_mailbox_maps = texthash:{state}/postfix/users
virtual_uid_maps = static:{mail_id}
virtual_gid_maps = static:{mail_id}
message_size_limit = 104857600
virtual_mailbox_limit = 0
relayhost = [127.0.0.1]:{sink}
in_flow_delay = 0
"""

# Debian's services (none in a chroot: there is no copy of /etc for it), smtpd with room for the idle connections.
_MASTER = """\
127.0.0.1:{port} inet n - n - 2500 smtpd
submission unix n - n - 2500 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
smtp unix - - n - - smtp
scache unix - - n - 1 scache
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

_DOVECOT = """\
base_dir = {state}/dovecot/run
state_dir = {state}/dovecot/state
log_path = {state}/dovecot.log
protocols = pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
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
        self._write("postfix/main.cf", _MAIN.format(**values))
        self._write("postfix/master.cf", _MASTER.format(port=self.smtp_port))
        self._write(
            "postfix/users", "".join(f"{name} {DOMAIN}/{name.partition('@')[0]}/\n" for name in users)
        )
        self._write("dovecot/dovecot.conf", _DOVECOT.format(port=self.pop3_port, **values))
        # Dovecot's cache of logins does not cover passwd-file, so it gets what costs even less: clear text.
        self._write("dovecot/passwd", "".join(f"{name}:{{PLAIN}}{PASSWORD}\n" for name in users))
        self._make_queue()

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self.state, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)

    def _make_queue(self) -> None:
        """What `postfix check` would make, without its look at files shared with other instances."""
        queue = os.path.join(self.state, "queue")
        account = pwd.getpwnam("postfix")
        postdrop = os.stat("/usr/sbin/postdrop").st_gid
        os.makedirs(os.path.join(queue, "pid"))
        for name in (*_QUEUES, "trace", "public", "maildrop", "../data"):
            path = os.path.join(queue, name)
            os.mkdir(path, 0o700)
            os.chown(path, account.pw_uid, postdrop if name in ("public", "maildrop") else -1)
        os.chmod(os.path.join(queue, "public"), 0o710)
        os.chmod(os.path.join(queue, "maildrop"), 0o730)

    def commands(self) -> list[list[str]]:
        daemons = subprocess.run(
            ["postconf", "-h", "daemon_directory"], capture_output=True, text=True, check=True
        ).stdout.strip()
        return [
            [os.path.join(daemons, "master"), "-s"],
            ["dovecot", "-F", "-c", os.path.join(self.state, "dovecot", "dovecot.conf")],
        ]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"MAIL_CONFIG": os.path.join(self.state, "postfix")}

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
