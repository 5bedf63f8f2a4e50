"""Why an operation was not done, in words for the person who asked for it."""

from __future__ import annotations


class Refused(Exception):
    """The operation makes no sense or is not safe as it was asked for. The text is one line."""


class Forbidden(Refused):
    """The operation is not for this operator."""
