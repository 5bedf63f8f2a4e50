"""The command line. Every command is a thin front of `admin` and `config`; decisions are made there."""

from __future__ import annotations


def main() -> None:
    """The console script `mailserver`; ends the process."""
    from mailserver.cli.program import program

    program.main(prog_name="mailserver")
