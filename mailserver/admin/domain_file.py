"""Changes a key of `domain.toml` where a person may have written it: comments and order stay.

The edited text is read again and compared with what was meant; where it differs, nothing is written.
Not here: which keys there are (`directory.domains`).
"""

from __future__ import annotations

import os
import tomllib

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mailserver.admin.refused import Refused
from mailserver.directory import changes
from mailserver.directory.domains import FILE, MOST_OCTETS, parse
from mailserver.directory.entries import Domain
from mailserver.durable import files


def set_key(domain: Domain, key: str, value: str | int | bool) -> None:
    """Set one key of a domain. Raises Refused, Missing, Malformed, OSError."""
    path = os.path.join(domain.directory, FILE)
    with changes.locked(domain.directory, f"no domain {domain.name}"):
        try:
            data = changes.content(path, MOST_OCTETS)
        except FileNotFoundError:
            return files.create(path, _edited(b"", key, value, path, domain))
        changes.rewrite(path, _edited(data, key, value, path, domain))
    return None


def _edited(data: bytes, key: str, value: str | int | bool, path: str, domain: Domain) -> bytes:
    try:
        meant = {**tomllib.loads(data.decode()), key: value}
        document = tomlkit.parse(data)
        document[key] = value
        text = tomlkit.dumps(document)
        done = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, TOMLKitError):
        raise Refused(f"{path}: no valid TOML") from None
    if done != meant:
        raise Refused(f"{path}: set {key} by hand, an edit by this program would change more")
    parse(text.encode(), domain.name, domain.directory)
    return text.encode()
