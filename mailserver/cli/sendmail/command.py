"""The command itself: the options that scripts give to /usr/sbin/sendmail, and the exit codes they look at.

Exit codes are those of sysexits.h: 0 taken in durably, 64 wrong command line, 65 the message is refused,
67 no such recipient, 69 refused, 75 try again later, 77 not allowed, 78 configuration.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from io import BufferedReader
from typing import Any, cast

import click

from mailserver.cli import place
from mailserver.cli.sendmail import people
from mailserver.cli.sendmail.client import Client
from mailserver.cli.sendmail.failed import Code, Failed
from mailserver.cli.sendmail.letter import BLOCK, Letter
from mailserver.cli.sendmail.ways import way_in
from mailserver.config.load import ConfigError
from mailserver.config.model import Config
from mailserver.console.tables import plain
from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, ParameterError, Recipient, envelope_wishes, recipient_wishes
from mailserver.mail.path import Parameters

_IGNORED_FLAGS = ("-G", "-m", "-n", "-U", "-v")
_IGNORED = ("-A", "-B", "-C", "-e", "-h", "-L", "-O", "-p", "-X")


class _Sendmail(click.Command):
    """Ends with the exit codes of sysexits.h, and never with a traceback."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*args, **more)
        except click.UsageError as error:
            raise _ended(Code.USAGE, error.format_message()) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failed as error:
            raise _ended(error.code, str(error)) from None
        except ConfigError as error:
            raise _ended(Code.CONFIG, str(error)) from None
        except OSError as error:
            raise _ended(Code.TEMPORARY, error.strerror or type(error).__name__) from None


def _ended(code: Code, text: str) -> click.exceptions.Exit:
    click.echo(f"sendmail: {plain(' '.join(text.split()))}", err=True)
    return click.exceptions.Exit(code)


def _ignored(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of other sendmails that mean nothing here."""
    for name in _IGNORED_FLAGS:
        command = click.option(name, is_flag=True, hidden=True, expose_value=False)(command)
    for name in _IGNORED:
        command = click.option(name, hidden=True, expose_value=False)(command)
    return command


@click.command(cls=_Sendmail, context_settings={"help_option_names": ["--help"]})
@click.argument("recipients", nargs=-1)
@click.option("-t", "from_header", is_flag=True, help="Send to the recipients in To, Cc and Bcc, too.")
@click.option("-f", "-r", "sender", metavar="ADDRESS", help="The sender of the envelope; '' for none.")
@click.option("-F", "name", metavar="NAME", help="The sender's name, for a message without From.")
@click.option("-i", "ignore_dots", is_flag=True, help="A line with a dot alone does not end the message.")
@click.option(
    "-b",
    "mode",
    metavar="MODE",
    type=click.Choice(["m", "s", "p", "i"]),
    help="-bs: SMTP on standard input; -bp: show the queue; -bi: nothing, aliases need no preparation.",
)
@click.option("-I", "aliases", is_flag=True, help="As -bi.")
@click.option("-q", "run", is_flag=False, flag_value="", help="Nothing: the queue runs by itself.")
@click.option("-o", "old", metavar="OPTION", multiple=True, help="-oi: as -i; all others mean nothing here.")
@click.option("-N", "notify", metavar="WISH", help="Reports: never, or failure,delay,success.")
@click.option("-R", "ret", type=click.Choice(["full", "hdrs"]), help="What they return.")
@click.option("-V", "envid", metavar="ID", help="And what they call the message.")
@_ignored
def sendmail(
    recipients: tuple[str, ...],
    from_header: bool,
    sender: str | None,
    name: str | None,
    ignore_dots: bool,
    mode: str | None,
    aliases: bool,
    run: str | None,
    old: tuple[str, ...],
    notify: str | None,
    ret: str | None,
    envid: str | None,
) -> int | None:
    """Send the message on standard input, as /usr/sbin/sendmail does.

    The running server takes it over its socket; without one it goes into mailboxes and queue from here.
    Where it ends with 0, it is on stable storage. It is taken for all recipients or for none.
    """
    if mode == "p":
        return _show_queue(click.get_current_context())
    if mode == "i" or aliases or run is not None:
        return None
    config = place.config()
    if mode == "s":
        _pass_on(config)
        return None
    with Letter() as letter:
        letter.read(sys.stdin.buffer, dots=not (ignore_dots or "i" in old))
        to = people.recipients([*recipients, *(letter.recipients() if from_header else ())], config)
        if not to:
            raise Failed(Code.USAGE, "no recipients: name them, or say -t where the header has them")
        own = people.sender(sender, config)
        first = people.author(name, own) if name and not letter.has("from") else b""
        envelope = _envelope(own, to, letter, notify=notify, ret=ret, envid=envid)
        with way_in(config) as sock:
            Client(sock).send(envelope, letter.encoded(first))
    return None


def _envelope(sender: Address | None, to: list[Address], letter: Letter, **wishes: str | None) -> Envelope:
    parameters: Parameters = {key.upper(): value for key, value in wishes.items() if value is not None}
    try:
        ret, envid = envelope_wishes(parameters)
        notify, _ = recipient_wishes(parameters)
    except ParameterError as error:
        raise Failed(Code.USAGE, str(error)) from None
    return Envelope(
        sender,
        tuple(Recipient(address, notify) for address in to),
        body_8bit=not letter.is_ascii,
        smtputf8=not all(str(address or "").isascii() for address in (sender, *to)),
        ret=ret,
        envid=envid,
    )


def _show_queue(context: click.Context) -> int:
    """As `mailserver queue list` does."""
    root = context.find_root()
    queue = cast(click.Group, cast(click.Group, root.command).get_command(root, "queue"))
    return cast(int, context.invoke(queue.commands["list"]))


def _pass_on(config: Config) -> None:
    """SMTP between standard input and output and a server."""
    with way_in(config) as sock:
        answers = threading.Thread(target=_copy_answers, args=(sock,), daemon=True)
        answers.start()
        with contextlib.suppress(OSError):  # the server has said goodbye
            while block := cast(BufferedReader, sys.stdin.buffer).read1(BLOCK):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)
        answers.join()


def _copy_answers(sock: socket.socket) -> None:
    while block := sock.recv(BLOCK):
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
