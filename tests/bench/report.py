"""Results as a table for people, as Markdown for the documentation, as JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence

from cells import Row, Sample
from rounds import Results

_LIMIT = 0.9  # cores: a load that takes more may be what was measured


def machine(state: str) -> dict[str, str]:
    """What the figures depend on, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(state),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f} before the run",
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _file_system(path: str) -> str:
    """Type and options of the mount that holds `path`."""
    best = ("", "unknown")
    with open("/proc/mounts") as file:
        for line in file:
            _, point, kind, options, *_ = line.split()
            inside = os.path.join(os.path.abspath(path), "").startswith(os.path.join(point, ""))
            if inside and len(point) >= len(best[0]):
                best = (point, f"{kind} ({options})")
    return best[1]


class Report:
    """One run, told in several ways. Ratios are against `reference`, where it took part."""

    def __init__(self, results: Results, machine: dict[str, str], targets: Sequence[str], reference: str):
        self._results = results
        self._machine = machine
        self._targets = [*sorted(targets, key=lambda name: name != reference)]
        self._reference = reference if reference in targets else ""

    def text(self) -> str:
        """Aligned columns for a terminal."""
        table = self._table(bold=False)
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines = [
            "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([*(line.rstrip() for line in lines), "", *self._notes()])

    def markdown(self) -> str:
        head, *rows = self._table(bold=True)
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *self._notes()])

    def json(self) -> dict[str, object]:
        results = self._results
        return {
            "machine": self._machine,
            "reference": self._reference,
            "rows": [
                {
                    **row._asdict(),
                    "targets": {
                        name: {
                            "median": median._asdict(),
                            "ratios": results.ratios(row, name, self._reference) if self._reference else [],
                            "samples": [sample._asdict() for sample in results.samples[row][name]],
                        }
                        for name in self._targets
                        if (median := results.median(row, name))
                    },
                }
                for row in results.samples
            ],
            "failures": [failure._asdict() for failure in results.failures],
        }

    def _table(self, bold: bool) -> list[list[str]]:
        others = [name for name in self._targets if name != self._reference]
        head = ["cell", "unit", *self._targets]
        if self._reference:
            head += [f"{name} ÷ {self._reference}" for name in others]
        table = [head]
        for row in self._results.samples:
            line = [
                row.title,
                row.unit,
                *(_figure(self._results.median(row, name)) for name in self._targets),
            ]
            if self._reference:
                line += [self._ratio(row, name, bold) for name in others]
            table.append(line)
        return table

    def _ratio(self, row: Row, name: str, bold: bool) -> str:
        ratios = self._results.ratios(row, name, self._reference)
        if not ratios:
            return ""
        middle = f"{statistics.median(ratios):.2f}"
        return f"{f'**{middle}**' if bold else middle} ({min(ratios):.2f}-{max(ratios):.2f})"

    def _notes(self) -> list[str]:
        rounds = max((len(of) for row in self._results.samples.values() for of in row.values()), default=0)
        ratios = "; ratios: median (least-most) of the rounds" if self._reference else ""
        notes = [
            f"Medians of {rounds} interleaved rounds; in brackets CPU seconds of all the target's processes per "
            f"1,000 messages{ratios}. ms, KiB, MiB: less is better.",
            "Machine: " + "; ".join(f"{key} {value}" for key, value in self._machine.items()) + ".",
        ]
        for row, by_target in self._results.samples.items():
            for name in by_target:
                median = self._results.median(row, name)
                if median and median.generator and median.generator > _LIMIT:
                    notes.append(f"{row.id}, {name}: the load took {median.generator:.1f} cores itself.")
        for failure in self._results.failures:
            lines = failure.reason.splitlines()
            reason = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
            notes.append(f"FAILED: {failure.target}, {failure.cell}: {reason}")
        return notes


def _figure(sample: Sample | None) -> str:
    if not sample:
        return ""
    digits = 0 if abs(sample.value) >= 100 else 1
    text = f"{sample.value:,.{digits}f}"
    return text if sample.cpu is None else f"{text} ({sample.cpu:.2f} s)"
