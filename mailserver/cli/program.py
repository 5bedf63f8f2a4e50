"""The command `mailserver` with all its subcommands, and what becomes of errors: one line and an exit code.

Exit codes: 0 done; 1 it could not be done (exists already, is missing, is invalid, storage trouble, or
nobody reads the output); 2 the command line itself is wrong; 130 interrupted, or answered with no.
Not here: what the commands do.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

import mailserver
from mailserver.admin.refused import EXPECTED
from mailserver.cli.consent import Declined
from mailserver.cli.loading import loading
from mailserver.pool import Busy
from mailserver.server.privileges import PrivilegeError
from mailserver.server.state import StateError

FAILED = 1
USAGE = 2
INTERRUPTED = 130

_EXPECTED = (*EXPECTED, Busy, PrivilegeError, StateError)

MODULES = {
    "check": "mailserver.cli.check",
    "console": "mailserver.cli.console.command",
    "init": "mailserver.cli.init",
    "sendmail": "mailserver.cli.sendmail.command",
    "serve": "mailserver.cli.serve",
    "trace": "mailserver.cli.trace",
}
"""Where the commands are that are no operations of the administration; each module has the command's name."""


class Program(click.Group):
    """The group of all commands, of which those that nobody asked for are not loaded; its `main` never shows
    a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load_operations()
        return sorted({*self.commands, *MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in MODULES:
            with loading(MODULES[cmd_name]):
                command: click.Command = getattr(import_module(MODULES[cmd_name]), cmd_name)
            return command
        self._load_operations()
        return self.commands.get(cmd_name)

    def _load_operations(self) -> None:
        if not self.commands:
            with loading("mailserver.cli.commands"):
                from mailserver.cli.commands import all_commands

                for command in all_commands():
                    self.add_command(command)

    def main(  # type: ignore[override]  # it ends the process in every mode
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        os.umask(0o077)
        try:
            result = super().main(args, prog_name, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USAGE)
        except click.UsageError as error:
            _fail(_usage(error), USAGE)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", INTERRUPTED)
        except Declined as error:
            _fail(str(error), INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered has nowhere to go
            sys.exit(FAILED)
        except click.ClickException as error:
            _fail(error.format_message(), FAILED)
        except OSError as error:
            _fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), FAILED)
        except _EXPECTED as error:
            _fail(str(error), FAILED)
        except Exception as error:  # a fault of this program: where it is, for a report
            *_, last = traceback.extract_tb(error.__traceback__)
            _fail(f"internal error: {type(error).__name__} at {last.filename}:{last.lineno}", FAILED)
        sys.exit(result if isinstance(result, int) else 0)


def _usage(error: click.UsageError) -> str:
    text = error.format_message().removesuffix(".")
    return f"{text} (see `{error.ctx.command_path} --help`)" if error.ctx else text


def _fail(text: str, code: int) -> NoReturn:
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    click.echo(f"mailserver: {line}", err=True)
    sys.exit(code)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, readable=False),  # passing through it may be all that is allowed
    help="The configuration directory. Without it: $MAILSERVER_CONFIG, else ./config if it has a "
    "mailserver.toml, else /etc/mailserver.",
)
@click.version_option(mailserver.__version__, message="%(prog)s %(version)s")
@click.pass_context
def program(context: click.Context, directory: str | None) -> None:
    """A mail server: SMTP, LMTP and POP3 for virtual domains in Maildir++.

    Commands work with and without a running server, which sees a change at its next look-up.

    Exit codes: 0 done; 1 not done (exists, missing, invalid); 2 wrong command line; 130 interrupted.
    """
    context.obj = directory
