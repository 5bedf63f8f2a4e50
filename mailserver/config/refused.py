"""The one exception of edits by machine, apart from what makes them: many know it, few edit."""

from __future__ import annotations


class EditRefused(ValueError):
    """The edit was not made and nothing was written; the text is one line for the operator."""
