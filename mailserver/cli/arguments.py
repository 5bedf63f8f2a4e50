"""Kinds of arguments: each is read once, here, and a wrong one is a wrong command line (exit code 2)."""

from __future__ import annotations

import click

from mailserver.config import values
from mailserver.mail.address import AddressError, canonical_domain


def domain(text: str) -> str:
    """A domain, in A-labels or U-labels."""
    try:
        return canonical_domain(text)
    except AddressError:
        raise click.BadParameter(f"{text!r} is no domain such as example.org") from None


def endpoint(text: str) -> values.EndpointText:
    """`tcp:HOST:PORT` and its kin."""
    try:
        return values.EndpointText(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def domain_and_path(text: str) -> tuple[str, str]:
    """`DOMAIN=DIR`."""
    name, path = _pair(text, "DOMAIN=DIR")
    return domain(name), path


def user_and_password(text: str) -> tuple[str, str]:
    """`USER=PASSWORD`; no message shows it."""
    return _pair(text, "USER=PASSWORD")


def _pair(text: str, form: str) -> tuple[str, str]:
    name, _, rest = text.partition("=")
    if not (name and rest):
        raise click.BadParameter(f"expected {form}")
    return name, rest
