"""Rounds: every cell is done to every target in turn (A B C, A B C, ...), and what came of it.

A cell that fails for a target is left out for it from then on, and remembered.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cells import Cell, Row, Sample
from target import Target, TargetFailed

Say = Callable[[str], None]


class Failure(NamedTuple):
    target: str
    cell: str
    reason: str


@dataclass
class Results:
    """Samples in order of the rounds: `samples[row][target name][round]`."""

    samples: dict[Row, dict[str, list[Sample]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, row: Row, target: str, sample: Sample) -> None:
        self.samples.setdefault(row, {}).setdefault(target, []).append(sample)

    def median(self, row: Row, target: str) -> Sample | None:
        """The medians of a target's samples, each for itself; None where it has none."""
        samples = self.samples[row].get(target)
        if not samples:
            return None
        return Sample(
            statistics.median(sample.value for sample in samples),
            _median([sample.cpu for sample in samples]),
            _median([sample.generator for sample in samples]),
        )

    def ratios(self, row: Row, target: str, reference: str) -> list[float]:
        """Target ÷ reference, round by round: neighbours in time are compared."""
        if row.near_zero:
            return []
        pairs = zip(self.samples[row].get(target, []), self.samples[row].get(reference, []), strict=False)
        return [ours.value / theirs.value for ours, theirs in pairs if theirs.value > 0]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def run(cells: Sequence[Cell], targets: Sequence[Target], rounds: int, say: Say) -> Results:
    """All cells; the targets are running."""
    results = Results()
    for cell in cells:
        able = [t for t in targets if cell.protocols & t.protocols and cell.id.startswith(t.cells)]
        able = [target for target in able if _attempt(results, cell, target, say, warm_up=True)]
        for number in range(rounds):
            say(f"{cell.id}: round {number + 1} of {rounds}")
            able = [target for target in able if _attempt(results, cell, target, say)]
    return results


def _attempt(results: Results, cell: Cell, target: Target, say: Say, warm_up: bool = False) -> bool:
    try:
        if warm_up:
            cell.warm_up(target)
        else:
            for row, sample in cell.run(target).items():
                results.add(row, target.name, sample)
    except TargetFailed as error:
        results.failures.append(Failure(target.name, cell.id, str(error)))
        say(f"{cell.id}: FAILED: {error}")
        _revive(target, say)
        return False
    return True


def _revive(target: Target, say: Say) -> None:
    """A failed target may be dead or in the middle of something: the next cell gets a fresh one."""
    try:
        target.restart()
    except TargetFailed as error:
        say(str(error))
