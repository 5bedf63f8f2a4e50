"""Keys of the directory database as file names, and back: one injective, reversible spelling.

A key is a folded local part (`mail.address.fold_local`). Letters and digits of any script and `. _ - + =`
stand as they are, so the common name is the file's name; everything else, and a leading dot, is
percent-encoded UTF-8. So no key can name another directory, a hidden file, or an editor's `ann~`, `#ann#`.
Not here: the grammar of addresses, and domain names, which are safe by their own grammar.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from mailserver.mail.address import fold_local

MOST_OCTETS = 255  # of one file name, on every common file system

_COMMON = re.compile(r"[a-z0-9_+=-][a-z0-9._+=-]{0,254}")
_BARE = frozenset("._-+=")


def encode(key: str) -> str:
    """The file name of `key`. Raises ValueError for no folded key, or for a name of over 255 octets."""
    if _COMMON.fullmatch(key):
        return key
    if not key or fold_local(key) != key:
        raise ValueError("not a folded local part")
    name = "".join(map(_spell, key))
    if name[0] == ".":
        name = "%2E" + name[1:]
    if len(name.encode()) > MOST_OCTETS:
        raise ValueError(f"as a file name the local part has more than {MOST_OCTETS} octets")
    return name


def decode(file_name: str) -> str | None:
    """The key that `encode` gives this very file name for; None for the name of no key."""
    try:
        key = unquote(file_name, errors="strict")
        return key if encode(key) == file_name else None
    except ValueError:
        return None


def _spell(character: str) -> str:
    # Combining marks are not alphanumeric, so nothing in a name can merge with what stands before it.
    if character in _BARE or character.isalnum():
        return character
    return "".join(f"%{octet:02X}" for octet in character.encode())
