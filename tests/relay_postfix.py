"""A Postfix as other people's smarthost: TLS, SASL login by a Dovecot, mailboxes of its own.

Both are private instances (`private`), which only root can start.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import private
import programs
import serving
import trustme

USER, PASSWORD = "me@there.test", "pass word"
HOST = "localhost"

MAIN = """\
maillog_file = /dev/stdout
myhostname = smarthost.test
mynetworks =
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
"""
DOVECOT = """\
log_path = /dev/stderr
protocols =
auth_mechanisms = plain login
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = {root}/users
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


class Smarthost:
    """`port` begins in clear text, `tls_port` with TLS; the certificate for HOST is good by `authorities`.

    While it is not running nobody else can have its ports, where connections are refused.
    """

    def __init__(self, root: Path, ports: serving.Ports) -> None:
        self.port, self.tls_port = ports.take(), ports.take()
        self.authorities = str(root / "authorities.pem")
        self._root = root
        self._instance = _configure(root, self.port, self.tls_port)
        self._running: programs.Daemon | None = None

    @property
    def postfix(self) -> programs.Daemon:
        assert self._running
        return self._running

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        with programs.Daemon(*self._instance) as self._running:
            self._running.says("daemon started")
            yield self

    def messages(self, user: str) -> list[bytes]:
        """What is in the mailbox of ann or bob, in no order."""
        return [path.read_bytes() for path in self._new(user).glob("*")]

    def sent(self, reply: str, to: str = "ann@there.test") -> None:
        """Wait until the message that it took with this reply is in a mailbox."""
        self.postfix.says(rf"{reply.rpartition(' ')[2]}: to=<{to}>.* status=sent")

    def empty(self, user: str) -> None:
        for path in self._new(user).iterdir():
            path.unlink()

    def _new(self, user: str) -> Path:
        return self._root / "mail" / user / "new"


@contextlib.contextmanager
def stopped() -> Iterator[Smarthost]:
    """Ready to run; takes mail for ann@there.test and bob@there.test from USER, who logs in with PASSWORD."""
    programs.need("postconf")
    ports = serving.Ports()
    root = Path(tempfile.mkdtemp(prefix="smarthost-"))
    root.chmod(0o755)
    try:
        made = Smarthost(root, ports)
        with programs.Daemon(*private.dovecot(root, DOVECOT.format(root=root))) as dovecot:
            dovecot.says("starting up")
            yield made
    finally:
        ports.close()
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def smarthost() -> Iterator[Smarthost]:
    """The same, running."""
    with stopped() as made, made.running():
        yield made


def _configure(root: Path, port: int, tls_port: int) -> private.Instance:
    nobody = pwd.getpwnam("nobody")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(root / "authorities.pem"))
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(root / "key-and-chain.pem"))
    (root / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    for user in ("ann", "bob"):
        for name in ("tmp", "new", "cur"):
            (root / "mail" / user / name).mkdir(parents=True)
    for path in (root / "mail").rglob("*"):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    settings = MAIN.format(root=root, uid=nobody.pw_uid, gid=nobody.pw_gid)
    return private.postfix(root, settings, MASTER.format(port=port, tls_port=tls_port))
