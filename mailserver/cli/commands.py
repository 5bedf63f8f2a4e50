"""The operations as commands: groups, arguments and options made from the administration's own table.

What a command line adds to an operation: questions before something is removed, passwords from a prompt or
standard input, JSON. Not here: carrying it out (`carry`), what is printed (`output`), the other commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from mailserver.admin.operation import FLAG, Kind, Operation, Parameter
from mailserver.admin.sentences import outcome, question
from mailserver.admin.table import TABLE
from mailserver.cli import carry, consent, output, passwords

GROUPS = {
    "alias": "Addresses that lead to others.",
    "config": "Settings of the server, changed while it runs.",
    "domain": "Domains whose mail is ours.",
    "listener": "What is served where.",
    "mailbox": "What is in a mailbox.",
    "operator": "Who may administer, and what.",
    "queue": "Mail that waits to leave.",
    "relay": "Servers that carry our mail further.",
    "session": "Who is connected to the running server.",
    "trash": "Deleted mail, which can be restored until it expires.",
    "user": "People with a mailbox and a password.",
}
WATCH = "--watch"
ELSEWHERE = frozenset({"passwd", "whoami", "trace"})
"""Those for whoever has logged in, for here the account decides; and what is a command of its own."""

ENDS_SERVER = frozenset({"drain", "stop"})


def all_commands() -> Iterator[click.Command]:
    """A group for each topic with its commands, and the commands without a topic."""
    groups: dict[str, click.Group] = {}
    for words in sorted(TABLE.keys() - ELSEWHERE):
        first, _, rest = words.removesuffix(WATCH).strip().partition(" ")
        if words.endswith(WATCH) or not rest:
            if not words.endswith(WATCH):
                yield _command(first, TABLE[words])
            continue
        group = groups.setdefault(first, click.Group(first, help=GROUPS[first]))
        group.add_command(_command(rest, TABLE[words]))
    yield from groups.values()


def _command(name: str, operation: Operation) -> click.Command:
    secret = any(not one.kind.public for one in operation.parameters)
    parameters = [_parameter(one) for one in operation.parameters if one.kind.public]
    if f"{operation.words} {WATCH}" in TABLE:
        parameters.append(click.Option([WATCH], is_flag=True, help="Go on, whenever it has changed."))
    if secret:
        parameters.append(passwords.OPTION)
    if operation.destroys:
        parameters.append(consent.OPTION)
    parameters.append(output.JSON)
    return click.Command(name, callback=_run(operation), params=parameters, help=operation.help)


def _parameter(one: Parameter) -> click.Parameter:
    kind, shown = _reader(one.kind), one.kind.name
    if not one.option:
        shown = (shown if one.needed else f"[{shown}]") + ("..." if one.many else "")
        count = -1 if one.many else 1
        return click.Argument([one.name], type=kind, metavar=shown, required=one.needed, nargs=count)
    if one.kind is FLAG:
        return click.Option([one.written, one.name], is_flag=True, default=None, help=one.help)
    return click.Option(
        [one.written, one.name],
        type=kind,
        metavar=shown,
        required=one.needed,
        multiple=one.many,
        help=one.help,
    )


def _reader(kind: Kind) -> Callable[[str], str]:
    """What the kind refuses is a wrong command line; the text itself goes on to the operation."""

    def read(text: str) -> str:
        try:
            kind.read(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None
        return text

    return read


def _run(operation: Operation) -> Callable[..., int]:
    def run(**said: Any) -> int:
        as_json = said.pop("as_json")
        from_stdin = said.pop("password_stdin", False)
        yes = said.pop("yes", False)
        watch = said.pop("watch", False)
        given = {name: value for name, value in said.items() if value not in (None, ())}
        if operation.words in ENDS_SERVER:
            carry.require_server(operation.words)  # else nobody needs to be asked
        if operation.destroys:
            consent.require(yes, question(operation.words, given))
        for one in operation.parameters:
            if not one.kind.public:
                given[one.name] = passwords.obtain(from_stdin, _whose(given))
        if operation.stream or watch:
            words = f"{operation.words} {WATCH}" if watch else operation.words
            return _stream(words, {} if watch else given, as_json)
        result = carry.perform(operation.words, given)
        output.result(result, outcome(operation.words, given, result), as_json)
        return 1 if _lacks(result) else 0

    return run


def _stream(words: str, given: Mapping[str, object], as_json: bool) -> int:
    """Print values as they come. A value that says it is not `good` makes the command fail in the end."""
    printer, good = output.Stream(as_json), True
    for value in carry.watch(words, given):
        printer.show(value)
        good = good and not (isinstance(value, dict) and value.get("good") is False)
    return 0 if good else 1


def _lacks(result: Any) -> bool:
    """Whether something in a list could not be read."""
    return isinstance(result, list) and any(isinstance(one, dict) and one.get("unreadable") for one in result)


def _whose(given: Mapping[str, object]) -> str:
    return str(given.get("address") or given.get("name") or "you")
