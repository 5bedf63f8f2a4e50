"""Changes keys of `domain.toml` where a person may have written it: comments and order stay.

The edited text is read again and compared with what was meant; where it differs, nothing is written.
Not here: which keys there are (`directory.domains`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mailserver.admin.refused import Refused
from mailserver.directory import changes
from mailserver.directory.domains import FILE, MOST_OCTETS, parse
from mailserver.directory.entries import Domain
from mailserver.durable import files

Changes = Mapping[str, str | int | bool | None]
"""Keys with their new values, None to take them out."""


def change(domain: Domain, changes_: Changes) -> None:
    """Change keys of a domain. Raises Refused, Missing, Malformed, OSError."""
    path = os.path.join(domain.directory, FILE)
    with changes.locked(domain.directory, f"no domain {domain.name}"):
        try:
            data = changes.content(path, MOST_OCTETS)
        except FileNotFoundError:
            return files.create(path, _edited(b"", changes_, path, domain))
        changes.rewrite(path, _edited(data, changes_, path, domain))
    return None


def _edited(data: bytes, changes_: Changes, path: str, domain: Domain) -> bytes:
    try:
        meant = {**tomllib.loads(data.decode()), **changes_}
        document = tomlkit.parse(data)
        for key, value in changes_.items():
            if value is not None:
                document[key] = value
            elif key in document:
                del document[key]
        text = tomlkit.dumps(document)
        done = tomllib.loads(text)
    except (ValueError, TOMLKitError):
        raise Refused(f"{FILE} of {domain.name} is no valid TOML") from None
    if done != {key: value for key, value in meant.items() if value is not None}:
        raise Refused(f"an edit of {FILE} by this program would change more: set it by hand")
    parse(text.encode(), domain.name, domain.directory)
    return text.encode()
