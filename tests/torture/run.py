"""Torture and fuzz for longer than a test run can: `python tests/torture/run.py [TIMES] [pytest options]`.

The same tests as in every run, with about TIMES (20) as much of everything that has a count: kills, power
cuts, sessions, random dialogues, seconds of guided fuzzing. 20 is what must have been run before a release: 1,000
kills of the whole family and 500 of a worker, 300 power cuts, 100,000 sessions after the first 10,000. It takes
about an hour and a half. The figures are printed at the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    arguments = sys.argv[1:]
    times = arguments.pop(0) if arguments and arguments[0].isdigit() else "20"
    os.environ["TORTURE"] = times
    os.chdir(HERE.parent.parent)
    tests = [str(HERE), str(HERE.parent / "fuzz")]
    options = ["--durations=10", f"--timeout={300 * int(times)}", *tests, *arguments]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *options])


if __name__ == "__main__":
    main()
