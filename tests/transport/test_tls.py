"""Certificates: which one a client sees, what a reload changes, and what a broken file does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import stat

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from mailserver.transport import tls
from mailserver.transport.tls import Certificates, make_self_signed

AUTHORITY = trustme.CA()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "tls"


def install(directory, name, *names):
    issued = AUTHORITY.issue_cert(*names)
    place = directory / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "privkey.pem").write_bytes(issued.private_key_pem.bytes())
    (place / "fullchain.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return place


def loaded(directory, default=""):
    certificates = Certificates(str(directory), default)
    assert certificates.reload() == []
    return certificates


def shake_hands(context, server_name=None, client=None):
    """A handshake in memory; returns (client's, server's) objects."""
    if client is None:
        client = ssl.create_default_context()
        AUTHORITY.configure_trust(client)
        client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=server_name)
    for _ in range(4):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return theirs, ours


def seen(context, server_name=None):
    """The names of the certificate a client is shown."""
    theirs, _ = shake_hands(context, server_name)
    names = theirs.getpeercert()["subjectAltName"]
    return {name for _, name in names}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("mx.example.test", {"mx.example.test"}),
        ("MX.Example.Test", {"mx.example.test"}),
        ("pop.example.test", {"*.example.test"}),
        ("deep.pop.example.test", {"other.test"}),  # a wildcard stands for one label
        ("example.test", {"other.test"}),
        ("second.test", {"first.test", "second.test"}),
        ("unknown.test", {"other.test"}),
        (None, {"other.test"}),
    ],
)
def test_server_name_chooses(directory, asked, shown):
    install(directory, "a-wildcard", "*.example.test")
    install(directory, "b-exact", "mx.example.test")
    install(directory, "c-two", "first.test", "second.test")
    install(directory, "d-default", "other.test")
    assert seen(loaded(directory, "d-default").context, asked) == shown


def test_without_a_default_the_first_is_shown(directory):
    install(directory, "b", "b.test")
    install(directory, "a", "a.test")
    assert seen(loaded(directory).context) == {"a.test"}


def test_an_idn_is_found_by_its_a_label(directory):
    install(directory, "a", "a.test")
    install(directory, "b", "xn--bcher-kva.test")
    assert seen(loaded(directory).context, "bücher.test") == {"xn--bcher-kva.test"}


def test_reload_counts_for_new_sessions(directory):
    install(directory, "mx", "old.test")
    certificates = loaded(directory)
    old = certificates.context
    theirs, ours = shake_hands(old)
    install(directory, "mx", "new.test")
    install(directory, "more", "more.test")
    assert certificates.reload() == []
    assert seen(certificates.context, "new.test") == {"new.test"}
    assert seen(certificates.context, "more.test") == {"more.test"}
    theirs.write(b"still")  # the old session goes on
    assert ours.read(5) == b"still"


def test_removed_certificate_is_forgotten(directory):
    install(directory, "a", "a.test")
    place = install(directory, "b", "b.test")
    certificates = loaded(directory)
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    assert certificates.reload() == []
    assert seen(certificates.context, "b.test") == {"a.test"}


def swap_key(place):
    (place / "privkey.pem").write_bytes(AUTHORITY.issue_cert("x.test").private_key_pem.bytes())


def encrypt_key(place):
    key = serialization.load_pem_private_key((place / "privkey.pem").read_bytes(), None)
    (place / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def make_unreadable(place):
    (place / "privkey.pem").unlink()
    (place / "privkey.pem").mkdir()


def make_pipe(place):
    (place / "fullchain.pem").unlink()
    os.mkfifo(place / "fullchain.pem")


@pytest.mark.parametrize(
    ("damage", "file", "hint"),
    [
        (swap_key, "privkey.pem", "does not belong"),
        (encrypt_key, "privkey.pem", "unencrypted"),
        (make_unreadable, "privkey.pem", "Is a directory"),
        (lambda place: (place / "privkey.pem").unlink(), "privkey.pem", "No such file"),
        (make_pipe, "fullchain.pem", "Not a regular file"),
        (lambda place: (place / "privkey.pem").write_text(""), "privkey.pem", "PEM"),
        (lambda place: (place / "fullchain.pem").unlink(), "fullchain.pem", "No such file"),
        (lambda place: (place / "fullchain.pem").write_text("hello"), "fullchain.pem", "PEM"),
        (lambda place: (place / "fullchain.pem").write_bytes(bytes(10**6)), "fullchain.pem", "larger"),
    ],
)
def test_a_broken_certificate_leaves_the_old_one(directory, damage, file, hint):
    place = install(directory, "mx", "mx.test")
    install(directory, "other", "other.test")
    certificates = loaded(directory, "mx")
    install(directory, "other", "renewed.test")
    damage(place)
    (problem,) = certificates.reload()
    assert problem.startswith(str(place / file)) and hint in problem and "\n" not in problem
    assert seen(certificates.context, "mx.test") == {"mx.test"}
    assert seen(certificates.context, "renewed.test") == {"renewed.test"}  # the others are not held up


def test_a_link_in_circles_keeps_no_certificate_away(directory):
    install(directory, "mx", "mx.test")
    (directory / "circle").symlink_to("circle")
    assert seen(loaded(directory, "mx").context) == {"mx.test"}


def test_vanished_directory_leaves_the_old_ones(directory):
    install(directory, "mx", "mx.test")
    certificates = loaded(directory)
    directory.rename(directory.with_name("gone"))
    assert certificates.reload() == [f"{directory}: No such file or directory"]
    assert seen(certificates.context) == {"mx.test"}


def test_nothing_to_load(directory):
    directory.mkdir()
    certificates = Certificates(str(directory))
    (problem,) = certificates.reload()
    assert "NAME/fullchain.pem" in problem
    with pytest.raises(tls.CertificateError):
        _ = certificates.context


def test_a_default_that_is_not_there(directory):
    install(directory, "mx", "mx.test")
    certificates = loaded(directory, "pop")
    assert seen(certificates.context) == {"mx.test"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocols_and_weak_ciphers_are_refused(directory):
    install(directory, "mx", "mx.test")
    context = loaded(directory).context
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(context, None, old)
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    weak.check_hostname, weak.verify_mode = False, ssl.CERT_NONE
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES256-SHA:AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA")
    with pytest.raises(ssl.SSLError):
        shake_hands(context, None, weak)
    weak.set_ciphers("ECDHE+AESGCM")
    theirs, _ = shake_hands(context, None, weak)
    assert theirs.version() == "TLSv1.2"
    assert theirs.compression() is None
    assert context.options & ssl.OP_NO_RENEGOTIATION  # no client of Python's can ask for one


def test_self_signed(directory):
    place = make_self_signed(str(directory), ["mx.example.test", "127.0.0.1", "::1"])
    assert place == str(directory / "mx.example.test")
    assert stat.S_IMODE(os.stat(f"{place}/privkey.pem").st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((directory / "mx.example.test/fullchain.pem").read_bytes())
    assert certificate.not_valid_after_utc.year - certificate.not_valid_before_utc.year >= 9
    client = ssl.create_default_context(cafile=f"{place}/fullchain.pem")
    for name in ("mx.example.test", "127.0.0.1", "::1"):
        theirs, _ = shake_hands(loaded(directory).context, name, client)
        assert theirs.version() == "TLSv1.3"


@pytest.mark.parametrize("names", [[], ["*.example.test"], ["../x"], [".x"], ["a/b"]])
def test_self_signed_needs_a_name_for_its_directory(directory, names):
    with pytest.raises(ValueError, match="first name"):
        make_self_signed(str(directory), names)
    assert not directory.exists()


class Upgrading(asyncio.Protocol):
    """Says go and goes over to TLS."""

    def __init__(self, context, done):
        self.context, self.done = context, done
        self.read = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.read += data
        if self.read == b"STLS":
            self.task = asyncio.get_running_loop().create_task(self.upgrade())

    async def upgrade(self):
        self.transport.write(b"go")
        try:
            transport = await tls.upgrade(self.transport, self, self.context, timeout=0.3)
            transport.write(b"secure")
        except OSError as error:
            self.transport.abort()
            self.done.set_result(error)


@pytest.mark.parametrize("then", ["handshake", "garbage", "silence", "leave"])
def test_upgrade(run, certificates, client_tls, then):
    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        server = await loop.create_server(lambda: Upgrading(certificates.context, done), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STLS")
        assert await reader.readexactly(2) == b"go"
        if then == "handshake":
            await writer.start_tls(client_tls, server_hostname="127.0.0.1")
            assert await reader.readexactly(6) == b"secure"
        else:
            if then == "garbage":
                writer.write(b"EHLO in clear\r\n" * 10)
            if then == "leave":
                writer.close()
            assert isinstance(await done, OSError)
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
        server.close()

    run(main())
