"""The file with the process number: it comes and goes, and no other file does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailserver.server.pid_file import PidFile


def test_it_comes_moves_and_goes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    file = PidFile()
    file.move(str(first))
    assert first.read_text() == f"{os.getpid()}\n"
    file.move(str(second))
    assert os.listdir(tmp_path) == ["b"]
    file.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("left", ["1\n", "4194304\n", "17", "123456789012\n"])
def test_that_of_a_dead_server_is_taken(tmp_path: Path, left: str) -> None:
    path = tmp_path / "pid"
    path.write_text(left)
    file = PidFile()
    file.move(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()
    assert not path.exists()


@pytest.mark.parametrize("content", ["precious", "12 34\n", "-1\n", "", "1" * 200])
def test_what_is_no_process_number_stays(tmp_path: Path, content: str) -> None:
    path, place = tmp_path / "precious", tmp_path / "pid"
    path.write_text(content)
    file = PidFile()
    file.move(str(place))
    with pytest.raises(OSError, match="holds something else than a process number"):
        file.move(str(path))
    assert path.read_text() == content
    assert place.read_text() == f"{os.getpid()}\n"
    file.remove()
    assert os.listdir(tmp_path) == ["precious"]


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("1\n")
    link.symlink_to(target)
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(OSError):
            PidFile().move(str(path))
    assert target.read_text() == "1\n"


@pytest.mark.parametrize("now", ["1\n", "precious"])
def test_what_took_its_place_stays(tmp_path: Path, now: str) -> None:
    path = tmp_path / "pid"
    file = PidFile()
    file.move(str(path))
    path.write_text(now)
    file.remove()
    assert path.read_text() == now
