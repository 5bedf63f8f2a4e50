"""Programs of others, which tests run where they are installed; `.ci/packages` names their packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
LIMIT = 60.0  # seconds


def need(program: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    path = shutil.which(program, path=PATH)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def environment(home: Path) -> dict[str, str]:
    """As for a user at home in `home`, whatever the tests were started with."""
    return {"PATH": PATH, "HOME": str(home), "LC_ALL": "C.UTF-8"}


def run(
    home: Path, program: str, *arguments: object, stdin: str = "", code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a program that must end with `code` (None: any)."""
    done = subprocess.run(
        [need(program), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        cwd=home,
        env=environment(home),
    )
    assert code is None or done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done
