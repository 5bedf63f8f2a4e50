"""Programs that read mail, each as its users run it: what was sent is what they have, and Trash has the rest."""

from __future__ import annotations

import os
import poplib
import pty
import smtplib
import ssl
import subprocess
from pathlib import Path

import programs
import pytest
import serving

ANN = "ann@example.test"
FIRST = b"Subject: one\r\n\r\n.\r\n..\r\n.dot\r\nFrom here\r\n"
SECOND = (
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\xc3\xa4\r\n"
)


def lf(wire: bytes) -> bytes:
    return wire.replace(b"\r\n", b"\n")


@pytest.fixture
def two(running, mailboxes) -> serving.Site:
    """Two messages of ann's."""
    send(running, FIRST)
    send(running, SECOND)
    return mailboxes


def send(running, wire: bytes, to: str = ANN) -> None:
    with smtplib.SMTP("127.0.0.1", running.smtp, timeout=serving.LIMIT) as client:
        client.sendmail("sender@client.test", [to], wire)


def trashed(site: serving.Site, user: str = "ann") -> list[bytes]:
    return [path.read_bytes() for path in sorted((site.mailbox(user) / ".Trash" / "cur").glob("*"))]


def ends(found: list[bytes], *wires: bytes) -> bool:
    """Whether the messages are those, below the trace of their way."""
    return len(found) == len(wires) and all(
        lf(message).rstrip(b"\n").endswith(lf(wire).rstrip(b"\n"))
        for message, wire in zip(found, wires, strict=True)
    )


# ---- curl


def curl(run, *arguments: object) -> bytes:
    return run("curl", "--silent", "--show-error", *arguments).stdout.encode()


@pytest.mark.parametrize("kind", ["plain", "stls", "tls"])
def test_curl(run, running, two, kind) -> None:
    port = running.pop3s if kind == "tls" else running.pop3
    url = f"{'pop3s' if kind == 'tls' else 'pop3'}://localhost:{port}/"
    options = ["--user", f"{ANN}:{serving.PASSWORD}"]
    if kind != "plain":
        options += ["--ssl-reqd", "--cacert", running.certificate]
    sizes = [len(message.replace(b"\n", b"\r\n")) for message in two.messages("ann")]
    assert curl(run, *options, url).split() == f"1 {sizes[0]} 2 {sizes[1]}".encode().split()
    assert ends([curl(run, *options, url + "1"), curl(run, *options, url + "2")], FIRST, SECOND)
    assert len(curl(run, *options, "--request", "UIDL", url).split()) == 4
    assert lf(curl(run, *options, "--request", "TOP 1 1", url)).endswith(b"Subject: one\n\n.\n")
    curl(run, *options, "--head", "--request", "DELE 1", url)  # and QUIT
    assert ends(two.messages("ann"), SECOND)
    assert ends(trashed(two), FIRST)


def test_curl_with_an_initial_response(run, running, two) -> None:
    options = ["--login-options", "AUTH=PLAIN", "--user", f"ann:{serving.PASSWORD}"]
    url = f"pop3://127.0.0.1:{running.pop3}/1"
    for more in ([], ["--sasl-ir"]):
        assert ends([curl(run, *options, *more, url)], FIRST)


def test_curl_with_a_wrong_password(run, running, two) -> None:
    url = f"pop3://127.0.0.1:{running.pop3}/1"
    done = run("curl", "--silent", "--show-error", "--user", f"{ANN}:wrong", url, code=67)  # login denied
    assert done.stdout == ""


# ---- fetchmail, mpop, getmail


def fetchmail(run, running, tmp_path: Path, port: int, *options: str) -> None:
    control = tmp_path / "fetchmailrc"
    control.write_text(
        f"poll localhost protocol pop3 port {port} uidl\n"
        f'  user "{ANN}" password "{serving.PASSWORD}"\n'
        f'  sslcertfile "{running.certificate}" sslcertck is bob here\n'
        f'  smtphost "127.0.0.1/{running.smtp}" smtpname "bob@example.test"\n  {" ".join(options)}\n'
    )
    control.chmod(0o600)
    run("fetchmail", "--fetchmailrc", control, "--pidfile", tmp_path / "pid", "--nosyslog")


@pytest.mark.parametrize("kind", ["stls", "tls"])
def test_fetchmail_from_one_mailbox_to_another(run, running, two, tmp_path, kind) -> None:
    """It reads by POP3 and hands on by SMTP, both ours; what it has handed on it deletes."""
    port, ssl_options = (running.pop3s, "ssl") if kind == "tls" else (running.pop3, "sslproto TLS1.2+")
    fetchmail(run, running, tmp_path, port, ssl_options)
    assert two.messages("ann") == []
    assert ends(trashed(two), FIRST, SECOND)
    assert ends(two.messages("bob"), FIRST, SECOND)
    assert b"\nReceived: from localhost" in two.messages("bob")[0]  # its own trace below ours


def test_fetchmail_keeps_and_knows_what_it_has_seen(run, running, two, tmp_path) -> None:
    fetchmail(run, running, tmp_path, running.pop3, "keep")
    send(running, b"Subject: three\r\n\r\nnew\r\n")
    fetchmail(run, running, tmp_path, running.pop3, "keep")
    assert len(two.messages("ann")) == 3
    assert ends(two.messages("bob"), FIRST, SECOND, b"Subject: three\n\nnew\n")


@pytest.mark.parametrize("kind", ["plain", "stls", "tls"])
def test_mpop(run, running, two, tmp_path, kind) -> None:
    options = {
        "plain": "tls off\nauth user\n",
        "stls": f"tls on\ntls_starttls on\nauth plain\ntls_trust_file {running.certificate}\n",
        "tls": f"tls on\ntls_starttls off\nauth plain\ntls_trust_file {running.certificate}\n",
    }
    for name in ("tmp", "new", "cur"):
        (tmp_path / "fetched" / name).mkdir(parents=True)
    control = tmp_path / "mpoprc"
    control.write_text(
        f"account default\nhost localhost\nport {running.pop3s if kind == 'tls' else running.pop3}\n"
        f'user {ANN}\npassword "{serving.PASSWORD}"\nuidls_file {tmp_path}/uidls\n{options[kind]}'
        f"delivery maildir {tmp_path}/fetched\nkeep on\n"
    )
    control.chmod(0o600)
    run("mpop", f"--file={control}", "--received-header=off")
    found = [path.read_bytes() for path in sorted((tmp_path / "fetched" / "new").iterdir(), key=order)]
    assert found == two.messages("ann")
    run("mpop", f"--file={control}", "--keep=off")  # sees by UIDL that it has them, and deletes
    assert len(list((tmp_path / "fetched" / "new").iterdir())) == 2
    assert two.messages("ann") == []
    assert len(trashed(two)) == 2


def order(path: Path) -> int:
    return path.stat().st_mtime_ns


@pytest.mark.parametrize("kind", ["SimplePOP3Retriever", "SimplePOP3SSLRetriever"])
def test_getmail(run, running, two, tmp_path, kind) -> None:
    secure = kind == "SimplePOP3SSLRetriever"
    control = tmp_path / "getmailrc"
    control.write_text(
        f"[retriever]\ntype = {kind}\nserver = localhost\n"
        f"port = {running.pop3s if secure else running.pop3}\nusername = {ANN}\npassword = {serving.PASSWORD}\n"
        + (f"ca_certs = {running.certificate}\n" if secure else "")
        + "[destination]\ntype = MDA_external\npath = /bin/sh\nallow_root_commands = true\n"
        f'arguments = ("-c", "cat >>{tmp_path}/read")\n'
        "[options]\ndelete = true\ndelivered_to = false\nreceived = false\nread_all = false\n"
    )
    control.chmod(0o600)
    run("getmail", f"--getmaildir={tmp_path}", f"--rcfile={control}")
    found = (tmp_path / "read").read_bytes()
    assert lf(FIRST) in found and lf(SECOND) in found
    assert two.messages("ann") == []
    assert ends(trashed(two), FIRST, SECOND)


# ---- mutt, which wants a terminal


def mutt(tmp_path: Path, place: str, keys: str, settings: str = "") -> None:
    """Have mutt open `place`, press `keys` and leave."""
    program = programs.need("mutt")
    (tmp_path / "muttrc").write_text(
        f'set folder="{tmp_path}"\n'  # or it asks whether to make ~/Mail
        "set sleep_time=0 wait_key=no pipe_decode=no confirmappend=no quit=yes move=no sort=mailbox-order\n"
        'set mark_old=yes delete=yes pop_delete=yes pop_checkinterval=0 header_cache=""\n'
        f"{settings}\n"
    )
    leader, follower = pty.openpty()
    try:
        with subprocess.Popen(
            [program, "-F", tmp_path / "muttrc", "-f", place, "-e", f'push "{keys}<quit>"'],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=tmp_path,
            env={**programs.environment(tmp_path), "TERM": "vt100"},
            start_new_session=True,
        ) as process:
            os.close(follower)
            follower = -1
            try:
                while os.read(leader, 65536):
                    pass
            except OSError:
                pass  # the terminal's end, as Linux tells it
            finally:
                process.kill()
    finally:
        os.close(leader)
        if follower >= 0:
            os.close(follower)


EVERYTHING = "<tag-pattern>~A<enter><tag-prefix><pipe-message>cat >>read<enter>"


def test_mutt_on_the_maildir(running, two, tmp_path) -> None:
    """It reads the directory itself, moves what it has seen, and we tell the same ids as before."""
    with pop(running) as client:
        before = client.uidl()[1]
    mutt(tmp_path, str(two.mailbox("ann")), EVERYTHING + "<tag-pattern>~A<enter><tag-prefix><flag-message>")
    assert lf(SECOND) in (tmp_path / "read").read_bytes()
    assert {path.name.rpartition(",")[2] for path in (two.mailbox("ann") / "cur").iterdir()} <= {"FS", "F"}
    with pop(running) as client:
        assert client.uidl()[1] == before
        assert ends([b"\n".join(client.retr(n)[1]) for n in (1, 2)], FIRST, SECOND)


def test_mutt_by_pop3(running, two, tmp_path) -> None:
    mutt(
        tmp_path,
        f"pops://localhost:{running.pop3s}/",
        EVERYTHING + "<delete-pattern>~s one<enter>",
        f'set pop_user="{ANN}" pop_pass="{serving.PASSWORD}" ssl_ca_certificates_file="{running.certificate}"',
    )
    assert lf(SECOND) in lf((tmp_path / "read").read_bytes())
    assert ends(two.messages("ann"), SECOND)
    assert ends(trashed(two), FIRST)


# ---- Python's poplib


class pop(poplib.POP3):
    """A session of ann's, which QUIT ends."""

    def __init__(self, running) -> None:
        super().__init__("localhost", running.pop3, timeout=serving.LIMIT)
        self.user(ANN)
        self.pass_(serving.PASSWORD)

    def __enter__(self) -> pop:
        return self

    def __exit__(self, *_: object) -> None:
        self.quit()


def test_poplib(running, two) -> None:
    client = poplib.POP3("localhost", running.pop3, timeout=serving.LIMIT)
    assert "STLS" in client.capa()
    client.stls(ssl.create_default_context(cafile=running.certificate))
    assert {"UIDL", "TOP", "USER", "SASL", "UTF8"} <= set(client.capa())
    assert client.utf8().startswith(b"+OK")
    client.user(ANN)
    assert client.pass_(serving.PASSWORD).startswith(b"+OK")
    count, octets = client.stat()
    wire = [message.replace(b"\n", b"\r\n") for message in two.messages("ann")]
    assert (count, octets) == (2, sum(map(len, wire)))
    assert [b"\r\n".join(client.retr(n)[1]) + b"\r\n" for n in (1, 2)] == wire
    other = poplib.POP3("localhost", running.pop3, timeout=serving.LIMIT)
    other.user(ANN)
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        other.pass_(serving.PASSWORD)
    other.quit()
    client.dele(1)
    client.rset()
    client.dele(2)
    assert b"kept in Trash for 30 days" in client.quit()
    assert ends(two.messages("ann"), FIRST)
    assert ends(trashed(two), SECOND)


def test_poplib_that_hangs_up_deletes_nothing(running, two) -> None:
    client = poplib.POP3_SSL(
        "localhost",
        running.pop3s,
        context=ssl.create_default_context(cafile=running.certificate),
        timeout=serving.LIMIT,
    )
    client.user("ann")
    client.pass_(serving.PASSWORD)
    client.dele(1)
    client.close()
    running.server.event("session", ended="lost", deleted=0)
    with pop(running) as again:
        assert again.stat()[0] == 2


def test_a_250_means_that_pop3_sees_it(running, mailboxes) -> None:
    for n in range(20):
        send(running, b"Subject: %d\r\n\r\n" % n)
        with pop(running) as client:
            assert client.stat()[0] == n + 1
            assert f"Subject: {n}".encode() in client.top(n + 1, 0)[1]
