"""A private Postfix as other people's smarthost: TLS, SASL login by a private Dovecot, mailboxes of its own.

Its own configuration, queue, sockets and ports; /etc and /var/spool are not touched. Only root can start it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import programs
import trustme
from name_servers import free_port

USER, PASSWORD = "me@there.test", "pass word"
HOST = "localhost"

MAIN = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
maillog_file = /dev/stdout
multi_instance_name = postfix-smarthost
myhostname = smarthost.test
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
in_flow_delay = 0
disable_dns_lookups = yes
smtputf8_enable = yes
message_size_limit = 5000000
virtual_mailbox_domains = there.test
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = inline:{{ {{ann@there.test = ann/}}, {{bob@there.test = bob/}} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {root}/key-and-chain.pem
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_sasl_auth_enable = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions =
smtpd_delay_reject = yes
local_header_rewrite_clients =
"""
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
DOVECOT = """\
base_dir = {root}/dovecot/run
state_dir = {root}/dovecot/state
log_path = /dev/stderr
protocols =
ssl = no
auth_mechanisms = plain login
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = {root}/dovecot/users
}}
service auth {{
  unix_listener {root}/queue/private/auth {{
    mode = 0666
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""
QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved")


class Smarthost(NamedTuple):
    """`port` begins in clear text, `tls_port` with TLS; the certificate for HOST is good by `authorities`."""

    postfix: programs.Daemon
    root: Path
    port: int
    tls_port: int
    authorities: str

    def messages(self, user: str) -> list[bytes]:
        """What is in the mailbox of ann or bob, in no order."""
        return [path.read_bytes() for path in (self.root / "mail" / user / "new").glob("*")]


@contextlib.contextmanager
def smarthost() -> Iterator[Smarthost]:
    """Started; takes mail for ann@there.test and bob@there.test from USER, who logs in with PASSWORD."""
    root = Path(tempfile.mkdtemp(prefix="smarthost-"))
    root.chmod(0o755)
    port, tls_port = free_port(), free_port()
    try:
        _configure(root, port, tls_port)
        daemons = subprocess.run(
            [programs.need("postconf"), "-h", "daemon_directory"], capture_output=True, text=True, check=True
        ).stdout.strip()
        with (
            programs.Daemon(["dovecot", "-F", "-c", str(root / "dovecot" / "dovecot.conf")]) as dovecot,
            programs.Daemon([f"{daemons}/master", "-s"], {"MAIL_CONFIG": str(root / "postfix")}) as postfix,
        ):
            dovecot.says("starting up")
            postfix.says("daemon started")
            yield Smarthost(postfix, root, port, tls_port, str(root / "authorities.pem"))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _configure(root: Path, port: int, tls_port: int) -> None:
    account, postdrop = pwd.getpwnam("postfix"), os.stat(programs.need("postdrop")).st_gid
    nobody = pwd.getpwnam("nobody")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(root / "authorities.pem"))
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(root / "key-and-chain.pem"))
    (root / "postfix").mkdir()
    (root / "postfix" / "main.cf").write_text(MAIN.format(root=root, uid=nobody.pw_uid, gid=nobody.pw_gid))
    (root / "postfix" / "master.cf").write_text(MASTER.format(port=port, tls_port=tls_port))
    (root / "dovecot").mkdir()
    (root / "dovecot" / "dovecot.conf").write_text(DOVECOT.format(root=root))
    (root / "dovecot" / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (root / "dovecot" / "users").chmod(0o644)
    (root / "queue" / "pid").mkdir(parents=True)
    for name in (*QUEUES, "trace", "public", "maildrop", "../data"):
        path = root / "queue" / name
        path.mkdir(0o700)
        os.chown(path, account.pw_uid, postdrop if name in ("public", "maildrop") else -1)
    (root / "queue" / "public").chmod(0o710)
    (root / "queue" / "maildrop").chmod(0o730)
    (root / "mail").mkdir()
    for user in ("ann", "bob"):
        for name in ("", "tmp", "new", "cur"):
            path = root / "mail" / user / name
            path.mkdir()
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
