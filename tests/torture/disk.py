"""Small file systems of their own: ext4 in an image file, mounted through a loop device. Needs root.

Everything mounted is unmounted, also when a test fails. Not here: what is done on them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("mkfs.ext4", "losetup", "mount", "umount")


def _run(*command: str | Path) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def make_image(path: Path, size: str, *options: str) -> None:
    """An empty ext4; or the test is skipped, with the reason."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    missing = [name for name in PROGRAMS if not shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not there")
    with path.open("wb") as file:
        file.truncate(_octets(size))
    _run("mkfs.ext4", "-q", "-F", "-m", "0", *options, path)


def _octets(size: str) -> int:
    return int(size.removesuffix("M")) << 20


@contextlib.contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """The file system of an image at `where`; the test is skipped where that is not allowed."""
    where.mkdir(exist_ok=True)
    try:
        device = _run("losetup", "--direct-io=on", "--find", "--show", image)
    except OSError as error:
        pytest.skip(f"no loop device: {error}")
    try:
        try:
            _run("mount", "-t", "ext4", device, where)
        except OSError as error:
            pytest.skip(f"no mount: {error}")
        try:
            yield where
        finally:
            _run("umount", where)
    finally:
        _run("losetup", "--detach", device)
