"""A user's file: the password hash on the first line, below it `key = value`, comments and blank lines.

Operators' files (`admin.operator_files`) have the same form and other keys, which are then given.
Changes keep every other line byte for byte. Not here: whether the hash can be checked (`passwords`), or
where the file is (`database`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mailserver.directory.entries import Malformed
from mailserver.mail.quota import parse_size

MOST_OCTETS = 64 * 1024

_HASH = re.compile(rb"[!\"$-~][!-~]*")  # one printable word; '#' would be a comment
_SETTING = re.compile(rb"\s*([a-z_]+)\s*=\s*(.*?)\s*")
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


class UserFile(NamedTuple):
    """What a user's file says; None where it leaves the choice to the domain."""

    password: str
    quota: int | None = None
    quota_messages: int | None = None
    enabled: bool = True


Keys = Mapping[str, Callable[[str], Any]]
"""The keys that a file of this form may have, and how a value is read; ValueError says what was expected."""


def parse(data: bytes) -> UserFile:
    """Read a user's file. Raises Malformed, whose text never holds the hash."""
    password, settings = read(data, _KEYS)
    return UserFile(password, **settings)


def read(data: bytes, keys: Keys) -> tuple[str, dict[str, Any]]:
    """The hash and the settings of a file of this form. Raises Malformed."""
    lines = data.splitlines()
    password = lines[0].rstrip() if lines else b""
    if not _HASH.fullmatch(password):
        raise Malformed("line 1: expected a password hash")
    settings: dict[str, Any] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        key, value = _setting(line, number, keys)
        if key in settings:
            raise Malformed(f"line {number}: {key} is set twice")
        settings[key] = value
    return password.decode(), settings


def render(password: str, settings: dict[str, str], keys: Keys | None = None) -> bytes:
    """A new user's file. Raises Malformed where a value has not the expected form."""
    data = _line(password) + b"".join(_line(f"{key} = {value}") for key, value in settings.items())
    read(data, keys or _KEYS)
    return data


def with_password(data: bytes, password: str, keys: Keys | None = None) -> bytes:
    """`data` with another hash. Raises Malformed."""
    first = data.splitlines(keepends=True)[0] if data else b""
    ending = first[len(first.rstrip(b"\r\n")) :] or b"\n"
    changed = password.encode() + ending + data[len(first) :]
    if read(changed, keys or _KEYS)[0] != password:
        raise Malformed("line 1: expected a password hash")
    return changed


def with_settings(data: bytes, changes: dict[str, str | None], keys: Keys | None = None) -> bytes:
    """`data` with some settings changed, added at its end, or removed (None). Raises Malformed."""
    lines = data.splitlines(keepends=True)
    left = dict(changes)
    kept = lines[:1]
    for line in lines[1:]:
        match = _SETTING.fullmatch(line)
        key = match.group(1).decode() if match else None
        if key not in changes:
            kept.append(line)
        elif (value := left.pop(key, None)) is not None:
            kept.append(_line(f"{key} = {value}"))
    added = [_line(f"{key} = {value}") for key, value in left.items() if value is not None]
    if added and kept and not kept[-1].endswith((b"\n", b"\r")):
        kept[-1] += b"\n"
    changed = b"".join(kept + added)
    read(changed, keys or _KEYS)
    return changed


def _line(text: str) -> bytes:
    if "\n" in text or "\r" in text:
        raise Malformed("expected one line")
    return text.encode() + b"\n"


def _setting(line: bytes, number: int, keys: Keys) -> tuple[str, Any]:
    match = _SETTING.fullmatch(line)
    if not match:
        raise Malformed(f"line {number}: expected key = value")
    key = match.group(1).decode()
    if key not in keys:
        raise Malformed(f"line {number}: unknown key {key}; expected one of {', '.join(keys)}")
    try:
        return key, keys[key](match.group(2).decode())
    except ValueError as error:  # UnicodeDecodeError too
        raise Malformed(f"line {number}: {key}: {_expected(error)}") from error


def _expected(error: ValueError) -> str:
    return "expected UTF-8 text" if isinstance(error, UnicodeError) else str(error)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError("expected a number of messages such as 5000")
    return int(text)


def truth(text: str) -> bool:
    """`yes` or `no`. Raises ValueError."""
    if text.lower() not in _TRUTH:
        raise ValueError("expected yes or no")
    return _TRUTH[text.lower()]


_KEYS: Keys = {
    "quota": parse_size,
    "quota_messages": _count,
    "enabled": truth,
}
