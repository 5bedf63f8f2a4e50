"""Postfix in front of ours: it takes mail in and hands it on by SMTP (STARTTLS) or LMTP (UNIX socket, TCP)."""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import smtplib
from collections.abc import Iterator
from typing import NamedTuple

import private
import programs
import pytest
import serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts only as root")

MAIN = """\
maillog_file = /dev/stdout
myhostname = relay.test
mynetworks = 127.0.0.0/8
disable_dns_lookups = yes
relay_domains = example.test, lmtp.test, socket.test
transport_maps = inline:{{ example.test=smtp:[127.0.0.1]:{smtp}, lmtp.test=lmtp:[127.0.0.1]:{lmtp},
  socket.test=lmtp:unix:{socket} }}
smtp_tls_security_level = verify
smtp_tls_verify_cert_match = mx.example.test
smtp_tls_CAfile = {certificate}
smtp_tls_session_cache_database =
lmtp_tls_security_level = none
"""
USERS = ("ann@example.test", "bob@example.test", "ann@lmtp.test", "bob@lmtp.test", "ann@socket.test")


class Pair(NamedTuple):
    """Ours, and a Postfix that listens on `port`."""

    site: serving.Site
    postfix: programs.Daemon
    port: int

    def send(self, to: list[str], body: str = "text", sender: str = "a@client.test") -> str:
        """Give Postfix a message; its queue id."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=serving.LIMIT) as client:
            client.ehlo("client.test")
            assert client.mail(sender)[0] == 250
            for recipient in to:
                assert client.rcpt(recipient)[0] == 250
            code, said = client.data(f"Subject: by Postfix\n\n{body}\n")
            assert code == 250
        return said.decode().rpartition(" ")[2]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    programs.need("postconf")
    with serving.site() as site:
        port, smtp, lmtp = (site.ports.take() for _ in range(3))
        socket = site.root / "lmtp.sock"
        site.configure(
            [
                ("smtp", f"tcp:127.0.0.1:{smtp}"),
                ("lmtp", f"tcp:127.0.0.1:{lmtp}"),
                ("lmtp", f"unix:{socket}:mode=666"),
            ],
            users=USERS,
        )
        site.root.chmod(0o755)
        certificate = site.root / "ca.pem"
        shutil.copyfile(site.certificate, certificate)
        settings = MAIN.format(smtp=smtp, lmtp=lmtp, socket=socket, certificate=certificate)
        instance = private.postfix(site.root, settings, f"127.0.0.1:{port} inet n - n - - smtpd\n")
        with site.serve(), programs.Daemon(*instance) as postfix:
            postfix.says("daemon started")
            yield Pair(site, postfix, port)


def test_by_smtp(pair: Pair) -> None:
    body = ".\n..\nFrom here\n" + "x" * 900
    queued = pair.send(["ann@example.test", "bob@example.test"], body)  # it delivers only if TLS is verified
    for user in ("ann", "bob"):
        pair.postfix.says(rf"{queued}: to=<{user}@example.test>.* status=sent \(250 2\.0\.0 OK ")
    content = pair.site.messages("ann@example.test")[-1]
    assert body.encode() in content
    assert b" with ESMTPS id " in content.partition(b"\nReceived: from client.test")[0]
    assert len(pair.site.messages("bob@example.test")) == 1


@pytest.mark.parametrize("domain", ["lmtp.test", "socket.test"])
def test_by_lmtp(pair: Pair, domain: str) -> None:
    queued = pair.send([f"ann@{domain}"])
    pair.postfix.says(rf"{queued}: to=<ann@{domain}>.* status=sent \(250 2\.0\.0 OK ")
    assert b" with LMTP id " in pair.site.messages(f"ann@{domain}")[0]


@pytest.mark.parametrize("domain", ["example.test", "lmtp.test"])
def test_a_recipient_who_is_unknown_costs_the_others_nothing(pair: Pair, domain: str) -> None:
    """And the bounce that Postfix makes comes back to us."""
    before = len(pair.site.messages(f"ann@{domain}"))
    queued = pair.send([f"ann@{domain}", f"nobody@{domain}"], sender="bob@example.test")
    pair.postfix.says(rf"{queued}: to=<nobody@{domain}>.* status=bounced \(.*550 5\.1\.1 No such user here")
    pair.postfix.says(rf"{queued}: to=<ann@{domain}>.* status=sent")
    assert len(pair.site.messages(f"ann@{domain}")) == before + 1
    bounced = pair.postfix.says(rf"{queued}: sender non-delivery notification: (\w+)")[1]
    pair.postfix.says(rf"{bounced}: to=<bob@example.test>.* status=sent")
    bounce = email.message_from_bytes(pair.site.messages("bob@example.test")[-1], policy=email.policy.default)
    assert bounce["Return-Path"] == "<>"
    assert bounce.get_content_type() == "multipart/report"
