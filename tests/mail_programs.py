"""Programs with which people submit mail: each sends one message of ANN's, and has heard a 250 when it returns."""

from __future__ import annotations

import json
import smtplib
import ssl
from pathlib import Path
from typing import NamedTuple

import programs
import serving

ANN = "ann@example.test"
THERE = "ann@there.test"
TEXT = ".\n..\n.dot\n\nFrom here\nÄrger\n" + "x" * 900 + "\n" + "a line of some length\n" * 1_000 + "end\n"


class Submission(NamedTuple):
    """What a program is told: where the server is, and how it begins TLS there."""

    port: int
    implicit: bool
    certificate: str
    subject: str
    home: Path

    @property
    def message(self) -> str:
        """For programs that do not compose one."""
        head = f"From: {ANN}\nTo: {THERE}\nSubject: {self.subject}\n"
        return f"{head}MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n{TEXT}"


def swaks(one: Submission) -> None:
    (one.home / "letter").write_text(one.message.removesuffix("\n"))  # it adds one
    programs.run(
        one.home,
        *("swaks", "--server", "localhost", "--port", one.port, "--helo", "client.test"),
        *("--tls-on-connect" if one.implicit else "--tls", "--tls-verify", "--tls-ca-path", one.certificate),
        *("--auth", "PLAIN", "--auth-user", ANN, "--auth-password", serving.PASSWORD),
        *("--from", ANN, "--to", THERE, "--data", f"@{one.home / 'letter'}"),
    )


def msmtp(one: Submission) -> None:
    programs.run(
        one.home,
        *("msmtp", "--host=localhost", f"--port={one.port}", f"--from={ANN}"),
        *("--tls=on", f"--tls-starttls={'off' if one.implicit else 'on'}"),
        *(f"--tls-trust-file={one.certificate}", "--auth=on", f"--user={ANN}"),
        *(f"--passwordeval=echo {serving.PASSWORD}", THERE),
        stdin=one.message,
    )


def mutt(one: Submission) -> None:
    scheme = "smtps" if one.implicit else "smtp"
    (one.home / "muttrc").write_text(
        f'set smtp_url="{scheme}://{ANN.replace("@", "%40")}@localhost:{one.port}/"\n'
        f'set smtp_pass="{serving.PASSWORD}" from="{ANN}" realname="" hostname=client.test\n'
        f'set ssl_starttls=yes ssl_force_tls=yes ssl_ca_certificates_file="{one.certificate}"\n'
        "set use_envelope_from=yes copy=no\n"
    )
    programs.run(one.home, *("mutt", "-F", one.home / "muttrc", "-s", one.subject, THERE), stdin=TEXT)


def python(one: Submission, to: str = THERE) -> None:
    context = ssl.create_default_context(cafile=one.certificate)
    client: smtplib.SMTP
    if one.implicit:
        client = smtplib.SMTP_SSL("localhost", one.port, timeout=serving.LIMIT, context=context)
    else:
        client = smtplib.SMTP("localhost", one.port, timeout=serving.LIMIT)
    with client:
        if not one.implicit:
            client.starttls(context=context)
        client.login(ANN, serving.PASSWORD)
        client.sendmail(ANN, [to], one.message.replace("\n", "\r\n").encode(), mail_options=["BODY=8BITMIME"])


NODEMAILER = """\
const { host, text, ...letter } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const nodemailer = require("nodemailer");
host.tls = { ca: require("fs").readFileSync(host.ca) };
nodemailer.createTransport(host).sendMail({ ...letter, text }).then(
  (sent) => console.log(sent.response),
  (error) => { console.error(error); process.exitCode = 1; },
);
"""


def nodemailer(one: Submission) -> None:
    host = {"host": "localhost", "port": one.port, "secure": one.implicit, "requireTLS": not one.implicit}
    host |= {"ca": one.certificate, "auth": {"user": ANN, "pass": serving.PASSWORD}}
    letter = {"host": host, "from": ANN, "to": THERE, "subject": one.subject, "text": TEXT}
    programs.node(one.home, "nodemailer", NODEMAILER, json.dumps(letter))


PROGRAMS = (swaks, msmtp, mutt, python, nodemailer)
