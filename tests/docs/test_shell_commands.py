"""Every `mailserver` command in the documents and units is one that the program understands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from docs.documents import DOCUMENTS, ROOT, blocks, inline_code

from mailserver.cli.program import program

_ENDS = {"|", "||", "&&", ";", "&", ">", "<", "done", "2>&1"}


def commands(script: str) -> Iterator[list[str]]:
    """The arguments of each `mailserver` in a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = list(lexer)
        for nested in words:
            if "mailserver " in nested:  # sh -c '...'
                yield from commands(nested)
        yield from _in(words)


def _in(words: list[str]) -> Iterator[list[str]]:
    for start, word in enumerate(words):
        if word.rpartition("/")[2] != "mailserver" or not _is_command(words, start):
            continue
        arguments = words[start + 1 :]
        ends = [index for index, argument in enumerate(arguments) if argument in _ENDS]
        yield arguments[: ends[0]] if ends else arguments


def _is_command(words: list[str], at: int) -> bool:
    """Whether the word is run: it is first, after sudo and its options, exec, or a pipe."""
    before = words[at - 1] if at else None
    if before is None or before in {"sudo", "exec", *_ENDS}:
        return True
    return words[max(0, at - 3) : at - 1] == ["sudo", "-u"]


def parse(arguments: list[str]) -> None:
    """Parse the arguments as the program does, running nothing. Raises click.UsageError."""
    command: click.Command = program
    context: click.Context | None = None
    while isinstance(command, click.Group):
        context = click.Context(command, context, command.name, **command.context_settings)
        options, rest, _ = command.make_parser(context).parse_args(list(arguments))
        if options.get("version") or options.get("help"):
            return
        inner = command.get_command(context, rest[0]) if rest else None
        if inner is None:
            raise click.UsageError(f"no command {' '.join(rest)}")
        command, arguments = inner, rest[1:]
    command.make_context(command.name, list(arguments), context)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks(document: str) -> None:
    for block in blocks(document, "sh"):
        for arguments in commands(block):
            parse(arguments)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_inline(document: str) -> None:
    """Inline, places to fill in may stand in capitals; the words of the command and options must exist."""
    for code in inline_code(document):
        if not re.match(r"(\S*/)?mailserver [a-z-]", code) or "NAME" in code:
            continue
        command: click.Command = program
        for word in shlex.split(code.replace("...", "").replace("…", ""))[1:]:
            if isinstance(command, click.Group) and (
                inner := command.get_command(click.Context(command), word)
            ):
                command = inner
            elif word.startswith("-"):
                assert word in {name for option in command.params for name in option.opts}, code
            elif isinstance(command, click.Group) and word.islower() and "/" not in word:
                pytest.fail(f"{document}: no command {code}")


def test_units() -> None:
    lines = (ROOT / "deploy/mailserver.service").read_text().splitlines()
    (start,) = (line.partition("=")[2] for line in lines if line.startswith("ExecStart="))
    parse(shlex.split(start)[1:])
    image = (ROOT / "deploy/Containerfile").read_text()
    entry, command = (re.search(rf"^{word} (\[.*\])$", image, re.MULTILINE) for word in ("ENTRYPOINT", "CMD"))
    assert entry and command
    words = re.findall(r'"([^"]*)"', entry[1] + command[1])
    parse(words[1:])


def test_readme_has_commands() -> None:
    found = [arguments for block in blocks("README.md", "sh") for arguments in commands(block)]
    assert len(found) >= 4


@pytest.mark.parametrize(
    "script",
    [
        "mailserver sevre",
        "sudo -u mailserver mailserver check --jsn",
        "printf x | mailserver user add nobody --password-stdin",
        "sudo sh -c 'exec mailserver serve -s tcp:nowhere'",
        "mailserver user add",
    ],
)
def test_what_is_wrong_is_seen(script: str) -> None:
    with pytest.raises(click.UsageError):
        for arguments in commands(script):
            parse(arguments)
