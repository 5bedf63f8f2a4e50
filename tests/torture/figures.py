"""How much torture, and what it measured.

`TORTURE=N` (a whole number, 1 without it) asks for about N times as much of everything that has a count.
Not here: the torture.
"""

from __future__ import annotations

import os

FULL = 20  # what `make torture` asks for
SCALE = max(1, int(os.environ.get("TORTURE", "1")))

measured: list[tuple[str, str]] = []


def times(normal: int, full: int) -> int:
    """How often: `normal` in every run, `full` by `make torture`, and in proportion for other scales."""
    return max(normal, full * SCALE // FULL) if SCALE > 1 else normal


def report(subject: str, **values: object) -> None:
    """Keep figures for the summary at the end of the run."""
    measured.append(
        (subject, ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items()))
    )
