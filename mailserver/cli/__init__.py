"""The command line. Every command is a thin front of `admin` and `config`; decisions are made there."""

from __future__ import annotations

import os
import sys

from mailserver.cli.loading import loading


def main() -> None:
    """The console script `mailserver`; ends the process. Called `sendmail`, it is that command."""
    with loading("mailserver.cli.program"):
        from mailserver.cli.place import system_directory
        from mailserver.cli.program import program

    if os.path.basename(sys.argv[0]) == "sendmail":
        program.main(["--config", system_directory(), "sendmail", *sys.argv[1:]], prog_name="mailserver")
    program.main(prog_name="mailserver")
