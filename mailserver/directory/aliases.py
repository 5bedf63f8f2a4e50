"""An alias's file: one target a line, an address, or a local part alone for the alias's own domain.

Lines that begin with `#` and blank lines are left out. Not here: following targets, loops (`mta.routing`).
"""

from __future__ import annotations

from collections.abc import Iterable

from mailserver.directory.entries import Malformed
from mailserver.mail.address import Address, AddressError, parse_mailbox

MOST_OCTETS = 512 * 1024
MOST_TARGETS = 1000


def parse(data: bytes, domain: str) -> tuple[Address, ...]:
    """The targets, each once, in the file's order. Raises Malformed, also where there is none."""
    targets: dict[Address, None] = {}
    for number, line in enumerate(data.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        try:
            targets[target(text.decode(), domain)] = None
        except (AddressError, UnicodeDecodeError) as error:
            raise Malformed(f"line {number}: expected an address or a local part") from error
        if len(targets) > MOST_TARGETS:
            raise Malformed(f"more than {MOST_TARGETS} targets")
    if not targets:
        raise Malformed("no target: expected one address or local part a line")
    return tuple(targets)


def target(text: str, domain: str) -> Address:
    """`local@domain`, or a local part alone in `domain`. Raises AddressError."""
    if "@" in text:
        return parse_mailbox(text)
    if text.startswith(("|", "/")):  # sendmail's commands and files: valid atoms, but never meant as names
        raise AddressError("no local part")
    return parse_mailbox(f"{text}@{domain}")


def render(targets: Iterable[Address], domain: str) -> bytes:
    """A new alias's file. Raises Malformed for none, and for too many, targets."""
    data = "".join(f"{_line(target)}\n" for target in targets).encode()
    parse(data, domain)
    return data


def _line(target: Address) -> str:
    """`target` as text; quoted where it would be a comment."""
    text = str(target)
    return f'"{target.local}"@{target.domain}' if text.startswith("#") else text
