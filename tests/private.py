"""Private instances of Postfix and Dovecot, for tests and the benchmark.

Each has its own configuration, queue, sockets and ports below one directory that everybody may enter; /etc and
/var/spool are not touched. Only root can start them. Settings here are those that any such instance needs; what
it is for, its ports and its log are the caller's to say. Not here: starting and stopping the processes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

POSTFIX = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
multi_instance_name = postfix-private
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
in_flow_delay = 0
"""
# Debian's services, none in a chroot: there is no copy of /etc for it. Those that nobody asks for do not run.
SERVICES = """\
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
lmtp unix - - n - - lmtp
scache unix - - n - 1 scache
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
OF_POSTFIX = (
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
OF_POSTDROP = {"public": 0o710, "maildrop": 0o730}

DOVECOT = """\
base_dir = {root}/dovecot/run
state_dir = {root}/dovecot/state
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
"""


class Instance(NamedTuple):
    """What starts it, in the foreground until SIGTERM, and what its environment has besides."""

    command: list[str]
    environment: dict[str, str]


def postfix(root: Path, settings: str, services: str) -> Instance:
    """A Postfix in `root`; `settings` are further lines of main.cf, `services` of master.cf."""
    home = root / "postfix"
    home.mkdir()
    (home / "main.cf").write_text(POSTFIX.format(root=root) + settings)
    (home / "master.cf").write_text(SERVICES + services)
    _make_queue(root)
    asked = [_administrative("postconf"), "-h", "daemon_directory"]
    daemons = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return Instance([f"{daemons}/master", "-s"], {"MAIL_CONFIG": str(home)})


def _administrative(program: str) -> str:
    """Its path, wherever a user's own path leads."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or program


def _make_queue(root: Path) -> None:
    """What `postfix check` would make, without its look at files shared with other instances."""
    owner = pwd.getpwnam("postfix").pw_uid
    postdrop = os.stat(_administrative("postdrop")).st_gid
    (root / "queue" / "pid").mkdir(parents=True)
    for name in (*OF_POSTFIX, "trace", "../data"):
        path = root / "queue" / name
        path.mkdir(0o700)
        os.chown(path, owner, -1)
    for name, mode in OF_POSTDROP.items():
        path = root / "queue" / name
        path.mkdir()
        os.chown(path, owner, postdrop)
        path.chmod(mode)


def dovecot(root: Path, settings: str) -> Instance:
    """A Dovecot in `root`; `settings` are further lines of its configuration."""
    for name in ("run", "state"):
        (root / "dovecot" / name).mkdir(parents=True)
    configuration = root / "dovecot" / "dovecot.conf"
    configuration.write_text(DOVECOT.format(root=root) + settings)
    return Instance(["dovecot", "-F", "-c", str(configuration)], {})
