"""What tests of several packages share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """The command line narrows the umask of its process, which here is that of all tests."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: for faults that are simulated, syncs cost only time."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="mailserver-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
