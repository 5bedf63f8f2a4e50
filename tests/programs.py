"""Programs of others, which tests run where they are installed; `.ci/packages` names their packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

import pytest

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NODE_PATH = "/usr/share/nodejs"
LIMIT = 60.0  # seconds


def need(program: str) -> str:
    """The path of a program; skips the test where it is not installed, but not where all have to be."""
    return shutil.which(program, path=PATH) or _missing(program)


def _missing(what: str) -> NoReturn:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not installed")


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


def node(home: Path, package: str, script: str, stdin: str) -> None:
    """Run a script by node, which finds the Debian package of `package` wherever node itself comes from."""
    need("node")
    if not Path(NODE_PATH, package).exists():
        _missing(f"{package} for node")
    run(home, "env", f"NODE_PATH={NODE_PATH}", "node", "-e", script, stdin=stdin)


class Daemon:
    """A program that goes on until it is told to stop, and what it says meanwhile."""

    def __init__(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        self._happened = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self.process = subprocess.Popen(
            [need(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", **(more or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._happened:
                self._lines.append(line.decode("utf-8", "backslashreplace").rstrip("\n"))
                self._happened.notify_all()
        with self._happened:
            self._ended = True
            self._happened.notify_all()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line in which `pattern` is found."""
        seen = 0
        with self._happened:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines)
                assert not self._ended, f"ended before {pattern!r}:\n{self.output}"
                assert self._happened.wait(LIMIT), f"no {pattern!r}:\n{self.output}"

    @property
    def output(self) -> str:
        return "\n".join(self._lines[-40:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM, and SIGKILL if that is not enough; its output ends with the last of its children."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()
