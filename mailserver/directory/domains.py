"""A domain's own file, `domain.toml`: all of it optional, and no key that is not known.

Not here: users and aliases, which have a file each.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from mailserver.directory.aliases import target
from mailserver.directory.entries import Domain, Malformed
from mailserver.directory.places import is_configuration
from mailserver.mail.address import AddressError
from mailserver.mail.quota import Quota, parse_size

FILE = "domain.toml"
MOST_OCTETS = 64 * 1024

_PLACE = re.compile(r"(?P<what>.*) - at `\$\.(?P<key>[a-z_]+)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


class DomainFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The keys of `domain.toml`."""

    catch_all: str | None = None
    undeliverable_to_postmaster: bool = False
    quota: str | int = 0
    quota_messages: Annotated[int, msgspec.Meta(ge=0)] = 0
    maildirs: str | None = None


def parse(data: bytes, name: str, directory: str) -> Domain:
    """The domain `name` whose files are in `directory`. Raises Malformed."""
    try:
        file = msgspec.toml.decode(data, type=DomainFile)
    except UnicodeDecodeError as error:
        raise Malformed("expected UTF-8 text") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # thousands of digits, of brackets
        raise Malformed(_reason(str(error))) from error
    if file.maildirs is not None and (not file.maildirs.startswith("/") or "\0" in file.maildirs):
        raise Malformed("maildirs: expected an absolute path")
    if file.maildirs is not None and not file.maildirs.isprintable():
        raise Malformed("maildirs: expected a path without control characters")
    if file.maildirs is not None and directory and is_configuration(file.maildirs, _configuration(directory)):
        raise Malformed("maildirs: expected a directory that is not of the configuration")
    return Domain(
        name=name,
        directory=directory,
        catch_all=_catch_all(file.catch_all, name),
        postmaster_gets_undeliverable=file.undeliverable_to_postmaster,
        quota=Quota(_storage(file.quota), file.quota_messages),
        maildirs=file.maildirs,
    )


def render(settings: Mapping[str, str | int | bool], name: str) -> bytes:
    """A new `domain.toml`. Raises Malformed where a key or value has not the expected form."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items()]
    data = "".join(lines).encode()  # JSON's strings, numbers and truths are TOML's too
    parse(data, name, "")
    return data


def _configuration(directory: str) -> str:
    """Where the directory database is in, from a domain's directory."""
    return os.path.dirname(os.path.dirname(directory))


def _catch_all(text: str | None, name: str) -> str | None:
    try:
        return None if text is None else str(target(text, name))
    except AddressError as error:
        raise Malformed("catch_all: expected an address or a local part") from error


def _storage(size: str | int) -> int:
    try:
        return parse_size(size)
    except ValueError as error:
        raise Malformed(f"quota: {error}") from error


def _reason(text: str) -> str:
    if match := _UNKNOWN.match(text):
        keys = ", ".join(field.name for field in msgspec.structs.fields(DomainFile))
        return f"unknown key {match.group(1)}; expected one of {keys}"
    if match := _PLACE.fullmatch(text):
        return f"{match['key']}: {match['what'][0].lower()}{match['what'][1:]}"
    return text
