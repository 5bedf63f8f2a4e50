"""Who sends, and to whom: addresses as scripts write them, completed with our domain.

Not here: whether they exist and may send, which the server decides.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from email.utils import formataddr, getaddresses

from mailserver.cli.sendmail.failed import Code, Failed
from mailserver.config.model import Config
from mailserver.config.outgoing import uid_of
from mailserver.mail.address import Address, AddressError, parse_mailbox


def sender(given: str | None, config: Config) -> Address | None:
    """What `-f` says, None for the null sender; else as whom the account of this process sends."""
    if given is not None:
        text = given.strip().removeprefix("<").removesuffix(">").strip()
        return _address(text, config) if text else None
    uid = os.getuid()
    for account, user in config.submission.accounts:
        if user is not None and uid_of(account) == uid:
            return user
    return _address(_account(uid), config)


def recipients(given: Iterable[str], config: Config) -> list[Address]:
    """The addresses in arguments, which may hold several, each once and in their order. Raises Failed."""
    found = [_address(address, config) for text in given for address in _split(text)]
    return list(dict.fromkeys(found))


def _split(text: str) -> list[str]:
    if not text.isprintable():
        raise Failed(Code.USAGE, f"{text!r} is no address")
    return [address for _, address in getaddresses([text])]


def author(name: str, address: Address | None) -> bytes:
    """A From field for `-F`."""
    text = "".join(character if character.isprintable() else " " for character in name)
    return f"From: {formataddr((text, str(address or '')))}\r\n".encode()


def _address(text: str, config: Config) -> Address:
    """A bare name is somebody of our domain."""
    full = text if "@" in text else f"{text}@{config.default_domain or config.hostname}"
    try:
        return parse_mailbox(full)
    except AddressError as error:
        raise Failed(Code.USAGE, f"{text!r} is no address: {error}") from None


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
