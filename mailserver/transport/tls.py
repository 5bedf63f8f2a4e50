"""TLS for servers: certificates chosen by name, reloaded while serving, and the upgrade of a connection.

Each directory `<name>/` below the one given holds `fullchain.pem` and `privkey.pem`. The client's SNI picks
the certificate: exact name, then a wildcard one level up, then the default one. Not here: verification of
others' certificates (that is the courier's), ordering certificates.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailserver.durable import files

CHAIN = "fullchain.pem"
KEY = "privkey.pem"
MAX_FILE = 256 * 1024  # octets of a PEM file
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; forward secret and authenticated only (RFC 9325 §4.2)
SELF_SIGNED_DAYS = 3650  # trusted by hand, once: it must not lapse while nobody looks


class CertificateError(Exception):
    """No certificate can be used."""


class _Certificate(NamedTuple):
    context: ssl.SSLContext
    names: frozenset[str]


class Certificates:
    """The certificates below `directory`; `default` names the one for clients without SNI, else the first is.

    Construction reads nothing: call `reload()` once while the keys can still be read, before privileges go.
    """

    def __init__(self, directory: str, default: str = "") -> None:
        self.directory = directory
        self.default = default
        self._loaded: dict[str, _Certificate] = {}
        self._by_name: dict[str, ssl.SSLContext] = {}

    @property
    def context(self) -> ssl.SSLContext:
        """For a new session, which it then serves to its end. Raises CertificateError if none is loaded."""
        for name in (self.default, *sorted(self._loaded)):
            if name in self._loaded:
                return self._loaded[name].context
        raise CertificateError(f"no usable certificate below {self.directory}")

    @property
    def available(self) -> bool:
        """Whether TLS can be offered at all."""
        return bool(self._loaded)

    def reload(self) -> list[str]:
        """Read all of them again; returns what is wrong, one line each, naming the file. May block.

        What cannot be read stays as it was; a directory that was removed is forgotten, but never the last.
        """
        problems: list[str] = []
        try:
            names = sorted(entry.name for entry in os.scandir(self.directory) if files.is_directory(entry))
        except OSError as error:
            return [f"{self.directory}: {error.strerror}"]
        loaded: dict[str, _Certificate] = {}
        for name in (name for name in names if not name.startswith(".")):
            try:
                loaded[name] = self._read(os.path.join(self.directory, name))
            except CertificateError as error:
                problems.append(str(error))
                if name in self._loaded:
                    loaded[name] = self._loaded[name]
        self._replace(loaded or self._loaded)
        if not loaded and not problems:
            problems.append(f"{self.directory}: no certificate; expected NAME/{CHAIN} and NAME/{KEY}")
        return problems

    def _replace(self, loaded: dict[str, _Certificate]) -> None:
        by_name: dict[str, ssl.SSLContext] = {}
        for _, certificate in sorted(loaded.items()):
            for name in certificate.names:
                by_name.setdefault(name, certificate.context)
        self._loaded, self._by_name = loaded, by_name

    def _read(self, directory: str) -> _Certificate:
        chain, key = os.path.join(directory, CHAIN), os.path.join(directory, KEY)
        names = _names(chain)
        _read_file(key)
        context = _context()
        try:
            context.load_cert_chain(chain, key, password=lambda: "")  # an encrypted key must not prompt
        except (ssl.SSLError, OSError, ValueError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise CertificateError(
                    f"{key}: the key does not belong to the certificate in {CHAIN}"
                ) from None
            raise CertificateError(f"{key}: expected an unencrypted private key in PEM form") from None
        context.sni_callback = self._choose
        return _Certificate(context, names)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower().rstrip(".")
        wildcard = "*." + name.partition(".")[2]  # RFC 6125 §6.4.3: the left-most label, whole
        context = self._by_name.get(name) or self._by_name.get(wildcard)
        if context is not None:
            connection.context = context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996, RFC 8997
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb", opener=files.regular) as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise CertificateError(f"{path}: larger than {MAX_FILE} octets")
    return data


def _names(chain: str) -> frozenset[str]:
    try:
        leaf = x509.load_pem_x509_certificates(_read_file(chain))[0]
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    except ValueError:
        raise CertificateError(f"{chain}: expected certificates in PEM form") from None
    return frozenset(name.lower() for name in alternatives.get_values_for_type(x509.DNSName))


def make_self_signed(directory: str, names: Sequence[str]) -> str:
    """Make `<directory>/<names[0]>/{fullchain,privkey}.pem` for host names and addresses; returns its path.

    EC P-256, valid for ten years; the key's file has mode 0600. Raises OSError, and ValueError for no name.
    """
    if not names or "/" in names[0] or names[0].startswith((".", "*")):
        raise ValueError("the first name also names the directory")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(key, names)
    path = os.path.join(directory, names[0])
    files.make_directory(path)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.replace(os.path.join(path, KEY), private, 0o600)
    files.replace(os.path.join(path, CHAIN), certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return path


def _sign(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a client's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


async def upgrade(
    transport: asyncio.Transport, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, timeout: float
) -> asyncio.Transport:
    """Go over to TLS as the server (STARTTLS, STLS) within `timeout` seconds; returns the new transport.

    Nothing is read before the first suspension: the caller drops what it holds in clear and then awaits this.
    Raises OSError; the old transport is then of no use but to abort.
    """
    loop = asyncio.get_running_loop()
    upgraded = await loop.start_tls(
        transport, protocol, context, server_side=True, ssl_handshake_timeout=timeout
    )
    if upgraded is None or upgraded.is_closing():  # we closed the old one meanwhile: no more is heard of it
        raise ConnectionResetError
    return upgraded
