"""Programs that send mail, each as its users run it: what they say they sent is in the mailbox."""

from __future__ import annotations

import email
import email.policy
import smtplib
import ssl
from email.message import EmailMessage
from pathlib import Path

import pytest
import serving

TEXT = "Subject: greetings\n\nHello,\n.\n..dots\nFrom here\nÄrger\n"
WIRE = TEXT.replace("\n", "\r\n").encode()  # what a program sends that does not convert line ends


def only(site: serving.Site, user: str = "ann") -> EmailMessage:
    """The one message of a user."""
    (content,) = site.messages(user)
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


# ---- swaks


def swaks(run, running, *arguments: object, code: int | None = 0) -> str:
    done = run(
        "swaks",
        *("--from", "sender@client.test", "--to", "ann@example.test", "--helo", "client.test"),
        *("--header", "Subject: by swaks", "--body", "one\n.\nthree"),
        *arguments,
        code=code,
    )
    return done.stdout


def test_swaks(run, running, mailboxes) -> None:
    swaks(run, running, "--server", f"127.0.0.1:{running.smtp}")
    message = only(mailboxes)
    assert message["Subject"] == "by swaks"
    assert message["Return-Path"] == "<sender@client.test>"
    assert message["Delivered-To"] == "ann@example.test"
    assert " with ESMTP id " in message["Received"]
    assert message.get_content().rstrip() == "one\n.\nthree"


@pytest.mark.parametrize("options", [["--tls"], ["--tls", "--pipeline"]], ids=" ".join)
def test_swaks_with_starttls(run, running, mailboxes, options) -> None:
    said = swaks(
        run,
        running,
        *("--server", f"127.0.0.1:{running.smtp}", *options),
        *("--tls-verify", "--tls-ca-path", running.certificate),
    )
    assert "TLS started with cipher TLSv1.3" in said
    assert " with ESMTPS id " in only(mailboxes)["Received"]


def test_swaks_with_tls_from_the_first_octet(run, running, mailboxes) -> None:
    swaks(run, running, "--server", f"127.0.0.1:{running.smtps}", "--tls-on-connect")
    assert " with ESMTPS id " in only(mailboxes)["Received"]


def test_swaks_pipelining_to_several(run, running, mailboxes) -> None:
    users = "ann@example.test,nobody@example.test,bob@example.test"
    said = swaks(run, running, "--server", f"127.0.0.1:{running.smtp}", "--pipeline", "--to", users)
    assert "550 5.1.1 No such user here" in said
    assert len(mailboxes.messages("ann")) == len(mailboxes.messages("bob")) == 1


def test_swaks_to_nobody(run, running, mailboxes) -> None:
    said = swaks(
        run, running, "--server", f"127.0.0.1:{running.smtp}", "--to", "nobody@example.test", code=24
    )
    assert "550 5.1.1 No such user here" in said


def test_swaks_as_a_relay(run, running, mailboxes) -> None:
    said = swaks(run, running, "--server", f"127.0.0.1:{running.smtp}", "--to", "ann@elsewhere.test", code=24)
    assert "550 5.7.1 Relaying denied" in said


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_swaks_by_lmtp(run, running, mailboxes, place) -> None:
    where = (
        ["--socket", running.lmtp_socket] if place == "unix" else ["--server", f"127.0.0.1:{running.lmtp}"]
    )
    said = swaks(
        run,
        running,
        *("--protocol", "LMTP", *where, "--to", "ann@example.test,bob@example.test"),
    )
    assert said.count("250 2.0.0 OK") == 2
    assert " with LMTP id " in only(mailboxes, "ann")["Received"]
    assert " with LMTP id " in only(mailboxes, "bob")["Received"]


def test_swaks_over_a_unix_socket(run, running, mailboxes) -> None:
    swaks(run, running, "--socket", running.smtp_socket)
    assert "(unix)" in only(mailboxes)["Received"]


# ---- others


def test_msmtp(run, running, mailboxes) -> None:
    options = ["--host=127.0.0.1", f"--port={running.smtp}", "--from=sender@client.test"]
    run("msmtp", *options, "ann@example.test", stdin=TEXT)
    assert mailboxes.messages("ann")[0].endswith(TEXT.partition("\n")[2].encode())
    assert only(mailboxes)["Subject"] == "greetings"


@pytest.mark.parametrize("starttls", ["on", "off"])
def test_msmtp_with_tls(run, running, mailboxes, starttls) -> None:
    port = running.smtp if starttls == "on" else running.smtps
    options = ["--host=localhost", f"--port={port}", "--from=sender@client.test", "--tls=on"]
    options += [f"--tls-starttls={starttls}", f"--tls-trust-file={running.certificate}"]
    run("msmtp", *options, "ann@example.test", "bob@example.test", stdin=TEXT)
    assert " with ESMTPS id " in only(mailboxes)["Received"]
    assert len(mailboxes.messages("bob")) == 1


def test_msmtp_is_told_what_is_wrong(run, running, mailboxes) -> None:
    options = ["--host=127.0.0.1", f"--port={running.smtp}", "--from=sender@client.test"]
    done = run("msmtp", *options, "nobody@example.test", stdin=TEXT, code=None)
    assert done.returncode == 65  # EX_DATAERR: permanent
    assert "550 5.1.1 No such user here" in done.stderr


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_curl(run, running, mailboxes, scheme, tmp_path) -> None:
    port = running.smtp if scheme == "smtp" else running.smtps
    (tmp_path / "mail").write_bytes(WIRE)
    run(
        *("curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", running.certificate),
        *("--mail-from", "sender@client.test", "--mail-rcpt", "ann@example.test"),
        *("--upload-file", tmp_path / "mail", f"{scheme}://localhost:{port}"),
    )
    message = only(mailboxes)
    assert " with ESMTPS id " in message["Received"]
    assert mailboxes.messages("ann")[0].endswith(TEXT.encode())


def test_mutt(run, running, mailboxes, tmp_path) -> None:
    (tmp_path / "muttrc").write_text(
        f'set smtp_url="smtp://localhost:{running.smtp}/" from="sender@client.test"\n'
        f'set ssl_starttls=yes ssl_force_tls=yes ssl_ca_certificates_file="{running.certificate}"\n'
        "set hostname=client.test use_envelope_from=yes copy=no\n"
    )
    arguments = ["-F", tmp_path / "muttrc", "-s", "by mutt: Ü", "-c", "bob@example.test"]
    run("mutt", *arguments, "ann@example.test", stdin="Grüße\n")
    message = only(mailboxes)
    assert message["Subject"] == "by mutt: Ü"
    assert message.get_content() == "Grüße\n"
    assert only(mailboxes, "bob")["Cc"] == "bob@example.test"


# ---- Python's smtplib


VRFY = b"2.5.0 Cannot VRFY user, but will accept message and attempt delivery"


def verified(running) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=running.certificate)


def test_smtplib(running, mailboxes) -> None:
    with smtplib.SMTP("localhost", running.smtp, timeout=serving.LIMIT) as client:
        client.starttls(context=verified(running))
        client.ehlo("client.test")
        assert {"size", "8bitmime", "smtputf8", "pipelining", "chunking", "dsn"} <= set(client.esmtp_features)
        assert "starttls" not in client.esmtp_features
        refused = client.sendmail(
            "sender@client.test",
            ["ann@example.test", "nobody@example.test"],
            WIRE,
            mail_options=["BODY=8BITMIME", "RET=HDRS", "ENVID=x1"],
            rcpt_options=["NOTIFY=FAILURE,DELAY"],
        )
        assert refused == {"nobody@example.test": (550, b"5.1.1 No such user here")}
        message = EmailMessage()
        message["Subject"] = "Grüße"
        message["From"], message["To"] = "jürgen@client.test", "bob@example.test"
        message.set_content("second message of the session\n")
        client.send_message(message)  # with SMTPUTF8, as an address needs it
        assert client.verify("ann") == (252, VRFY)
    assert mailboxes.messages("ann")[0].endswith(TEXT.encode())
    second = mailboxes.messages("bob")[0]
    assert "From: jürgen@client.test".encode() in second
    assert "Return-Path: <jürgen@client.test>".encode() in second
    assert " with UTF8SMTPS id " in only(mailboxes, "bob")["Received"]


def test_smtplib_from_the_first_octet(running, mailboxes) -> None:
    with smtplib.SMTP_SSL(
        "localhost", running.smtps, context=verified(running), timeout=serving.LIMIT
    ) as client:
        client.sendmail("sender@client.test", ["ann@example.test"], WIRE)
    assert len(mailboxes.messages("ann")) == 1


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_smtplib_by_lmtp(running, mailboxes, place: str) -> None:
    where = ("127.0.0.1", running.lmtp) if place == "tcp" else (str(running.lmtp_socket), 0)
    with smtplib.LMTP(*where, timeout=serving.LIMIT) as client:
        client.ehlo("client.test")
        client.mail("sender@client.test")
        for user in ("ann", "bob"):
            assert client.rcpt(f"{user}@example.test")[0] == 250
        assert client.data(WIRE)[0] == 250
        assert client.getreply()[0] == 250  # of the second recipient
    assert len(mailboxes.messages("ann")) == len(mailboxes.messages("bob")) == 1


def test_a_large_message_is_whole(running, mailboxes) -> None:
    """More than is held in memory, lines of every length."""
    body = b"".join(b"%d " % n + b"x" * (n % 990) + b"\r\n" for n in range(20_000))
    with smtplib.SMTP("127.0.0.1", running.smtp, timeout=serving.LIMIT) as client:
        client.sendmail("sender@client.test", ["ann@example.test"], b"Subject: large\r\n\r\n" + body)
    (content,) = mailboxes.messages("ann")
    assert content.endswith(b"Subject: large\n\n" + body.replace(b"\r\n", b"\n"))


def test_every_program_left_the_staging_empty(running) -> None:
    assert list(Path(running.site.mail, ".queue", "tmp").iterdir()) == []
