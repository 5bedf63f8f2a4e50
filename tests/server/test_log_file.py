"""Where log lines go, and when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serving

from mailserver import maillog

STALLED = """
from mailserver import maillog
log = maillog.open_log(None)
log.start()
for number in range(maillog.PENDING + 10_000):
    maillog.event("tick", number=number)
print("went on", flush=True)
log.close()
"""


@pytest.mark.parametrize("kind", ["pipe", "program", "device"])
def test_a_log_is_a_regular_file_that_nobody_runs(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    elif kind == "program":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o700)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(OSError, match="expected a regular file that is not executable"):
        maillog.MailLog(str(path))
    if kind == "pipe":
        os.close(reader)
    if kind == "program":
        assert path.read_text() == "#!/bin/sh\n"


@pytest.fixture
def busy_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[maillog.MailLog]:
    """A log that has just written a line, and would gather for ever what comes now."""
    monkeypatch.setattr(maillog, "GATHER", 1000.0)
    log = maillog.MailLog(str(tmp_path / "log"))
    log.start()
    log.line("first\n")
    while not (tmp_path / "log").read_text():
        pass
    yield log
    log.close()


def test_lines_of_a_busy_time_are_written_together(busy_log: maillog.MailLog, tmp_path: Path) -> None:
    busy_log.line("second\n")
    busy_log.line("third\n")
    assert (tmp_path / "log").read_text() == "first\n"
    busy_log.flush()
    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"


def test_a_log_that_is_closed_does_not_wait(busy_log: maillog.MailLog, tmp_path: Path) -> None:
    busy_log.line("second\n")
    busy_log.close()
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_a_reader_that_stalls_stops_nobody() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STALLED], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"went on\n"
        lines = process.stderr.read().decode().splitlines()
    dropped = [int(line.rpartition("=")[2]) for line in lines if " event=log-dropped " in line]
    ticks = len(lines) - len(dropped)
    assert dropped and ticks + sum(dropped) == maillog.PENDING + 10_000
    assert "event=tick number=0" in lines[0]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (7, "7"),
        (True, "True"),
        ("a@b.test", "a@b.test"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('"\\', '"\\"\\\\"'),
        ("\n event=forged", '"\\u000a event=forged"'),
        ("\udcff", '"\\udcff"'),
        ("grün", '"grün"'),
    ],
)
def test_values_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, written: str
) -> None:
    log = maillog.MailLog(str(tmp_path / "log"))
    monkeypatch.setattr(maillog, "_log", log)
    maillog.event("tried", the_value=value, nothing=None)
    log.close()
    assert (tmp_path / "log").read_text().split(" ", 1)[1] == f"event=tried the-value={written}\n"


def test_who_starts_it_at_a_terminal_sees_that_it_serves_and_where_the_log_is() -> None:
    terminal, ours = os.openpty()
    with serving.site() as site, open(terminal) as shown:
        site.configure(
            [("smtp", f"tcp:127.0.0.1:{site.ports.take()}")], top=f'log_file = "{site.root}/log"\n'
        )
        command = [*serving.MODULE, "--config", str(site.config), "serve"]
        with subprocess.Popen(command, stderr=ours, stdout=ours) as process:
            os.close(ours)
            try:
                assert shown.readline() == f"Serving; the log is {site.root}/log\n"
            finally:
                process.terminate()
            assert process.wait(serving.LIMIT) == 0


def test_it_serves_also_where_standard_error_is_closed() -> None:
    with serving.site() as site:
        log = site.root / "log"
        site.configure([("smtp", f"tcp:127.0.0.1:{site.ports.take()}")], top=f'log_file = "{log}"\n')
        command = [*serving.MODULE, "--config", str(site.config), "serve"]
        with subprocess.Popen(["sh", "-c", 'exec "$@" 2>&-', "sh", *command]) as process:
            end = time.monotonic() + serving.LIMIT
            while not (log.exists() and "event=console-serving" in log.read_text()):
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.02)
            process.terminate()
            assert process.wait(serving.LIMIT) == 0
