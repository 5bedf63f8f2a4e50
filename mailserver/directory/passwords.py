"""Password hashes: argon2id for new ones, and what other mail servers left behind for verifying.

The one place that knows passlib. Every call costs milliseconds to a second by design, so it belongs in a
pool. Clear passwords are not taken, and neither is DES crypt, which looks at 8 characters only. Not here:
who may log in, delays and the cache of verifications (`mta.authentication`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple

MAX_PASSWORD = 1024  # octets in UTF-8; longer ones are refused before any hashing
BCRYPT_OCTETS = 72  # bcrypt looks no further


def _require_libpass() -> None:
    if any(metadata.distributions(name="passlib")) or not any(metadata.distributions(name="libpass")):
        raise ImportError(
            "the distribution libpass is needed and passlib, whose 1.7.4 fails with bcrypt 5, must not be "
            "installed: pip uninstall passlib && pip install --force-reinstall libpass"
        )


_require_libpass()

from passlib.registry import get_crypt_handler  # noqa: E402  (checked first, for one clear error)

# OWASP's minimum for argon2id. Measured on one of two shared cores of a small virtual machine: 28 ms a
# password, against 60 ms for 32 MiB and 170 ms for RFC 9106's 64 MiB in three passes. Together with the
# delay for guessers more would cost our own processor more than theirs.
_MEMORY_KIB, _PASSES, _LANES = 19 * 1024, 2, 1

# A hash nobody has a password for, checked when there is no user: it costs what a current hash costs.
DUMMY = f"$argon2id$v=19$m={_MEMORY_KIB},t={_PASSES},p={_LANES}$bm9ib2R5J3Mgc2FsdA${'A' * 43}"


class MalformedHash(ValueError):
    """The stored text is no hash that can be checked; the text says why and never holds the hash."""


class Verdict(NamedTuple):
    """`outdated`: not argon2id of at least today's cost; worth renewing at the next good login."""

    ok: bool
    outdated: bool


class _Stored(NamedTuple):
    check: Callable[[bytes], bool]
    current: bool = False


def hash_password(password: str) -> str:
    """An argon2id hash in the PHC form. Raises ValueError for no password, a NUL or over 1024 octets."""
    octets = _octets(password)
    if not octets:
        raise ValueError(f"expected a password of 1 to {MAX_PASSWORD} octets without NUL")
    argon2 = get_crypt_handler("argon2").using(
        type="ID", memory_cost=_MEMORY_KIB, rounds=_PASSES, parallelism=_LANES
    )
    with _first_time("argon2", "hash"):
        return str(argon2.hash(octets))


def verify(password: str, stored: str) -> Verdict:
    """Whether `stored` is a hash of `password`. Raises MalformedHash."""
    hashed = _parse(stored)
    octets = _octets(password)
    try:
        return Verdict(octets is not None and hashed.check(octets), not hashed.current)
    except (ValueError, MemoryError):  # whose text can hold the hash
        raise MalformedHash("the hash is damaged") from None


def examine(stored: str) -> None:
    """Raises MalformedHash where `verify` could not check against `stored`, as far as the form tells."""
    _parse(stored)


def is_possible(password: str) -> bool:
    """Whether the text can be a password at all: at most 1024 octets, no NUL, no broken Unicode."""
    return _octets(password) is not None


def _octets(password: str) -> bytes | None:
    if len(password) > MAX_PASSWORD or "\0" in password:  # a NUL would end the password in C libraries
        return None
    try:
        octets = password.encode()
    except UnicodeEncodeError:
        return None
    return octets if len(octets) <= MAX_PASSWORD else None


# ---- the stored text

_PREFIX = re.compile(r"\{([A-Za-z0-9-]{1,32})(?:\.(HEX|B64|BASE64))?\}(.*)", re.IGNORECASE)
_CLEAR = {"PLAIN", "CLEARTEXT", "CLEAR", "PLAIN-TRUNC"}
_CRYPT = {"CRYPT", "ARGON2ID", "ARGON2I", "BLF-CRYPT", "SHA512-CRYPT", "SHA256-CRYPT", "MD5-CRYPT", "MD5"}


def _parse(stored: str) -> _Stored:
    match = _PREFIX.fullmatch(stored)
    if not match:
        return _crypt(stored)
    scheme, encoding, payload = match[1].upper(), (match[2] or "").upper(), match[3]
    if scheme in _CLEAR:
        raise MalformedHash("clear passwords are not accepted; store a hash")
    if scheme in _DIGESTS:
        return _digest(_DIGESTS[scheme], payload, encoding)
    if scheme not in _CRYPT and scheme != "PBKDF2":
        raise MalformedHash(f"unknown scheme {scheme}")
    if encoding:
        payload = _decode(payload, encoding).decode("latin-1")
    return _dovecot_pbkdf2(payload) if scheme == "PBKDF2" else _crypt(payload)


def _decode(payload: str, encoding: str) -> bytes:
    try:
        if encoding == "HEX":
            return binascii.unhexlify(payload)
        return base64.b64decode(payload, validate=True)
    except ValueError:
        raise MalformedHash(f"expected {'hexadecimal' if encoding == 'HEX' else 'base64'} text") from None


# ---- modular crypt and PHC forms, by passlib


class _Scheme(NamedTuple):
    handler: str
    most: int  # rounds, or their binary logarithm: a few seconds of work
    octets: int = MAX_PASSWORD  # of the password


_SCHEMES = {
    "argon2id": _Scheme("argon2", 64),
    "argon2i": _Scheme("argon2", 64),
    "2a": _Scheme("bcrypt", 16, BCRYPT_OCTETS),
    "2b": _Scheme("bcrypt", 16, BCRYPT_OCTETS),
    "2y": _Scheme("bcrypt", 16, BCRYPT_OCTETS),
    "6": _Scheme("sha512_crypt", 5_000_000),
    "5": _Scheme("sha256_crypt", 5_000_000),
    "1": _Scheme("md5_crypt", 0),
    "pbkdf2": _Scheme("pbkdf2_sha1", 10_000_000),
    "pbkdf2-sha256": _Scheme("pbkdf2_sha256", 10_000_000),
    "pbkdf2-sha512": _Scheme("pbkdf2_sha512", 10_000_000),
    "scrypt": _Scheme("scrypt", 20),
}
_MOST_MEMORY_KIB, _MOST_LANES = 1024 * 1024, 64


def _crypt(text: str) -> _Stored:
    scheme = _SCHEMES.get(text[1:].partition("$")[0]) if text.startswith("$") else None
    if scheme is None:
        raise MalformedHash("unknown form of hash")
    handler = get_crypt_handler(scheme.handler)
    try:
        with _first_time(scheme.handler, "parse"):
            parameters = handler.from_string(text)
    except ValueError:
        raise MalformedHash(f"damaged {scheme.handler} hash") from None
    if parameters.checksum is None:
        raise MalformedHash(f"{scheme.handler} settings without a hash")
    _check_cost(scheme, parameters)

    def check(password: bytes) -> bool:
        # Cutting off what bcrypt does not see would let the first 72 octets log in alone.
        with _first_time(scheme.handler, "verify"):
            return len(password) <= scheme.octets and bool(handler.verify(password, text))

    return _Stored(check, scheme.handler == "argon2" and _is_current(parameters))


_done: set[tuple[str, str]] = set()
_one_at_a_time = threading.Lock()


@contextmanager
def _first_time(handler: str, use: str) -> Iterator[None]:
    """One thread alone where passlib completes a handler at its first use: two at once make it fail."""
    if (handler, use) in _done:
        yield
        return
    with _one_at_a_time:
        yield
    _done.add((handler, use))


def _check_cost(scheme: _Scheme, parameters: Any) -> None:
    if (
        getattr(parameters, "rounds", 0) > scheme.most
        or getattr(parameters, "memory_cost", 0) > _MOST_MEMORY_KIB
        or getattr(parameters, "parallelism", 0) > _MOST_LANES
    ):
        raise MalformedHash(f"{scheme.handler} hash that costs too much to check")


def _is_current(parameters: Any) -> bool:
    return bool(
        parameters.type.upper() == "ID"
        and parameters.memory_cost >= _MEMORY_KIB
        and parameters.rounds >= _PASSES
        and parameters.parallelism >= _LANES
    )


# ---- Dovecot's and LDAP's forms


class _Digest(NamedTuple):
    algorithm: str
    octets: int
    salted: bool = False


_DIGESTS = {
    "SHA": _Digest("sha1", 20),
    "SHA1": _Digest("sha1", 20),
    "SHA256": _Digest("sha256", 32),
    "SHA512": _Digest("sha512", 64),
    "SSHA": _Digest("sha1", 20, salted=True),
    "SSHA256": _Digest("sha256", 32, salted=True),
    "SSHA512": _Digest("sha512", 64, salted=True),
    "SMD5": _Digest("md5", 16, salted=True),
    "LDAP-MD5": _Digest("md5", 16),
    "PLAIN-MD5": _Digest("md5", 16),
}
_PBKDF2 = re.compile(r"\$1\$([^$]*)\$([0-9]{1,8})\$([0-9a-fA-F]{40})")


def _digest(scheme: _Digest, payload: str, encoding: str) -> _Stored:
    if not encoding and not scheme.salted and len(payload) == 2 * scheme.octets:
        encoding = "HEX"  # Dovecot tells the two apart by their length too
    raw = _decode(payload, encoding)
    wanted, salt = raw[: scheme.octets], raw[scheme.octets :]
    if len(wanted) < scheme.octets or bool(salt) is not scheme.salted:
        raise MalformedHash("digest of a wrong length")

    def check(password: bytes) -> bool:
        found = hashlib.new(scheme.algorithm, password + salt, usedforsecurity=False).digest()
        return hmac.compare_digest(found, wanted)

    return _Stored(check)


def _dovecot_pbkdf2(text: str) -> _Stored:
    match = _PBKDF2.fullmatch(text)
    if not match or not 0 < int(match[2]) <= _SCHEMES["pbkdf2"].most:
        raise MalformedHash("expected {PBKDF2}$1$salt$rounds$hash")
    salt, rounds, wanted = match[1].encode("latin-1"), int(match[2]), bytes.fromhex(match[3])

    def check(password: bytes) -> bool:
        return hmac.compare_digest(hashlib.pbkdf2_hmac("sha1", password, salt, rounds), wanted)

    return _Stored(check)
