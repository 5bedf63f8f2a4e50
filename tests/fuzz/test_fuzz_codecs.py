"""All fuzz targets: random octets and mutated seeds in every run, and guided by coverage where atheris is there."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import fuzz_codecs
from fuzz.fuzz_codecs import SEEDS, TARGETS
from fuzz.mutations import mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from torture.figures import SCALE, report

WORDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"\r\n.\r\n",
    b"\0",
    b" ",
    b"=",
    b"@",
    b'"',
    b"\\",
    b"/",
    b"..",
    b"\xff",
]
EXTENT = ["-seed=1", "-runs=25000"] if SCALE == 1 else [f"-max_total_time={8 * SCALE}"]
"""The ordinary run takes the same way each time; the long one looks where nobody has been."""
TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("name", TARGETS)
def test_random_octets(name: str) -> None:
    @settings(max_examples=150 * SCALE, deadline=None)
    @given(st.one_of(st.binary(max_size=200), mutated(SEEDS[name], WORDS)))
    def attempt(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)
    attempt()


@pytest.mark.skipif(
    not importlib.util.find_spec("atheris"), reason="atheris is not installed: no guide to new code"
)
def test_guided_by_coverage(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, name in enumerate(TARGETS):
        for seed in SEEDS[name]:
            (corpus / f"{name}-{hashlib.sha256(seed).hexdigest()}").write_bytes(bytes([number]) + seed)
    command = [sys.executable, fuzz_codecs.__file__, "all", *EXTENT, "-max_len=4096"]
    done = subprocess.run(
        [*command, "-timeout=10", corpus],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("Done ")), "")
    report("codecs, guided by coverage", runs=runs.removeprefix("Done ").partition(" ")[0])
