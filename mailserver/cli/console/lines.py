"""Lines of a person at a terminal: editing, completion and a history that stays, by the `readline` library.

Not here: what lines mean (`dialogue`).
"""

from __future__ import annotations

import contextlib
import os
import readline  # of CPython everywhere but on Windows
from collections.abc import Callable

REMEMBERED = 1000  # lines


class Lines:
    """`complete(text)` gives what may stand in place of the last word of a text."""

    def __init__(self, history: str, complete: Callable[[str], list[str]]) -> None:
        self._history = history
        self._complete = complete
        self._found: list[str] = []

    def begin(self) -> None:
        with contextlib.suppress(OSError):
            readline.read_history_file(self._history)
        readline.set_history_length(REMEMBERED)
        readline.set_completer_delims(" ")
        readline.set_completer(self._next)
        emulated = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if emulated else "tab: complete")

    def end(self) -> None:
        """Keep the history; without a place for it, none is kept."""
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._history), 0o700, exist_ok=True)
            readline.write_history_file(self._history)

    def ask(self, prompt: str) -> str:
        """The next line. Raises EOFError, KeyboardInterrupt."""
        return input(prompt)

    def _next(self, text: str, number: int) -> str | None:
        if number == 0:
            line = readline.get_line_buffer()[: readline.get_endidx()]
            found = self._complete(line)
            self._found = [f"{found[0]} "] if len(found) == 1 else found  # Python's readline adds no blank
        return self._found[number] if number < len(self._found) else None


def history_file() -> str:
    """XDG Base Directory Specification: state that is kept for a user."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "mailserver", "console_history")
