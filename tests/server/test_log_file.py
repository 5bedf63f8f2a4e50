"""Where log lines may go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailserver import maillog


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
