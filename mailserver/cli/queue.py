"""`mailserver queue`: mail that waits to leave, with and without a running server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from mailserver.admin import control
from mailserver.admin.entries import QueueDetails, QueueEntry, QueueRecipient
from mailserver.admin.queue import Office
from mailserver.admin.refused import Refused
from mailserver.admin.requests import Answer, Request, Verb, perform
from mailserver.admin.still_queue import StillQueue
from mailserver.cli import output, place
from mailserver.cli.consent import require, yes_option
from mailserver.cli.idle import Occupied, idle_state
from mailserver.config.model import Config
from mailserver.queue.spool import Spool

_LOOKS = ("list", "show")


@click.group()
def queue() -> None:
    """Mail that waits to leave."""


@queue.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """All messages of the queue, the oldest first."""
    output.show_all(QueueEntry, asyncio.run(_entries()), as_json)


@queue.command()
@click.argument("id")
@output.json_option
def show(id: str, as_json: bool) -> None:
    """One message, with each recipient and what was said about it."""
    found = asyncio.run(_office().show(id))
    if as_json:
        output.show(found, as_json)
    else:
        _tell(found)


def _tell(found: QueueDetails) -> None:
    output.show(found, False, without=("recipients",))
    click.echo()
    output.show_all(QueueRecipient, found.recipients, False)


def _chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """IDS or --all."""
    command = click.argument("ids", nargs=-1)(command)
    return click.option("--all", "everything", is_flag=True, help="All messages.")(command)


@queue.command()
@_chosen
@output.json_option
def retry(ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Try messages now, whatever their schedule says: those with IDS, or --all. Held ones stay held."""
    _command("retry", ids, everything, as_json, "tried now")


@queue.command()
@_chosen
@output.json_option
def hold(ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Keep messages, and do not try them until they are released."""
    _command("hold", ids, everything, as_json, "held")


@queue.command()
@_chosen
@output.json_option
def release(ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Let held messages go; they are tried now."""
    _command("release", ids, everything, as_json, "released")


@queue.command()
@_chosen
@yes_option
@output.json_option
def drop(ids: tuple[str, ...], everything: bool, yes: bool, as_json: bool) -> None:
    """Remove messages for good; their senders hear nothing."""
    _require_choice(ids, everything)
    which = "all messages of the queue" if everything else output.number(len(ids), "message")
    require(yes, f"Remove {which} for good?")
    _command("drop", ids, everything, as_json, "removed for good")


def _command(verb: Verb, ids: tuple[str, ...], everything: bool, as_json: bool, done: str) -> None:
    _require_choice(ids, everything)
    result = asyncio.run(_office().command(verb, None if everything else ids))
    output.said(result, as_json, f"{output.number(result.done, 'message')} {done}")


def _require_choice(ids: tuple[str, ...], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("name the messages, or say --all", click.get_current_context())


def _office() -> Office:
    return Office(partial(_ask, place.config()))


async def _entries() -> list[QueueEntry]:
    return [entry async for entry in _office().entries()]


async def _ask(config: Config, request: Request) -> Answer:
    """From the server; where none runs, from the disk, which may be looked at in any case."""
    try:
        return control.ask(control.path_of(config.maildirs), request)
    except control.NobodyThere:
        pass
    except control.Broken as error:
        raise Refused(str(error)) from None
    still = StillQueue(Spool(os.path.join(config.maildirs, ".queue")))
    if request.verb in _LOOKS:
        return await perform(still, request)
    try:
        with idle_state(config):
            return await perform(still, request)
    except Occupied:
        raise Refused("the server is starting or stopping, try again") from None
