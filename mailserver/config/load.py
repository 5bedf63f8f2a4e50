"""Reads `mailserver.toml` into a Config, or says in one line what is wrong with it.

Not here: the directory database beside it (`directory`), and the search for every fault at once (`check`).
"""

from __future__ import annotations

import copy
import importlib.util
import os
import tomllib
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from mailserver.config.explain import finding, unknown
from mailserver.config.keys import text_of
from mailserver.config.model import NEEDS_TWISTED, TWISTED_UNUSABLE, Config, Listener, Relay, Settings
from mailserver.config.private import misplaced
from mailserver.config.statements import Path
from mailserver.config.values import DomainName, PathText
from mailserver.durable import files
from mailserver.transport.endpoint import parse as parse_endpoint

FILE = "mailserver.toml"
MAX_FILE = 1024 * 1024
_MAX_PROBLEMS = 100
_GOOD = {
    "listener": {"protocol": "smtp", "endpoint": "tcp:127.0.0.1:25"},
    "relay": {"name": "relay", "hosts": ["127.0.0.1:25"]},
}


class Problem(NamedTuple):
    """One fault: the file, the key (or line, or name) in it, and what is wrong. `str()` is one line."""

    file: str
    key: str
    problem: str

    def __str__(self) -> str:
        text = ": ".join(part for part in self if part)
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


class ConfigError(Exception):
    """The configuration cannot be used. The text is one line: file, key and expected form."""

    def __init__(self, file: str, key: str, problem: str) -> None:
        super().__init__(str(Problem(file, key, problem)))
        self.file = file
        self.key = key
        self.problem = problem


def load(directory: str) -> Config:
    """The configuration in `directory`. Raises ConfigError with the first problem."""
    config, problems = read(directory)
    if config is None:
        raise ConfigError(*problems[0])
    return config


def defaults(directory: str) -> Config:
    """A configuration that says nothing, for those who mend one that cannot be read."""
    return _resolve(Settings(hostname=DomainName("localhost")), directory)


def read(directory: str) -> tuple[Config | None, list[Problem]]:
    """The configuration, or None and all that is wrong with it."""
    file = os.path.join(directory, FILE)
    if not os.path.abspath(
        file
    ).isprintable():  # it is part of what front ends are told, in JSON and in lines
        return None, [Problem(file, "", "expected a path of printable characters in UTF-8")]
    data = _content(file)
    return (None, [data]) if isinstance(data, Problem) else examine(data, directory)


def examine(data: bytes, directory: str) -> tuple[Config | None, list[Problem]]:
    """As `read`, with `data` for the content of the file."""
    file = os.path.join(directory, FILE)
    document = _parse(data, file)
    if isinstance(document, Problem):
        return None, [document]
    settings, problems = _convert(document, file)
    if settings is None:
        return None, problems
    found = [*listener_problems(settings.listeners), *relay_problems(settings.relays)]
    config = _resolve(settings, directory)
    problems = [Problem(file, key, problem) for key, problem in [*found, *misplaced(config)]]
    return (None, problems) if problems else (config, [])


def listener_problems(listeners: tuple[Listener, ...]) -> Iterator[tuple[str, str]]:
    """What no listener can show alone: (key, problem)."""
    seen: set[str] = set()
    for listener in listeners:
        key = f"listener[{listener.endpoint}]"
        if listener.endpoint in seen:
            yield f"{key}.endpoint", "another listener has this endpoint already"
        seen.add(listener.endpoint)
        if listener.protocol == "lmtp" and parse_endpoint(listener.endpoint).port == 25:  # RFC 2033 §5
            yield f"{key}.endpoint", "expected another port than 25 for LMTP"
        if listener.protocol in ("telnet", "pb"):
            yield from ((f"{key}.{name}", problem) for name, problem in _console_problems(listener))


def _console_problems(listener: Listener) -> Iterator[tuple[str, str]]:
    """Passwords of operators cross no network in clear; and these front ends are an extra."""
    if not parse_endpoint(listener.endpoint).is_private:
        where = "allowed on a UNIX socket, on loopback or with tls: only"
        what = f"{listener.protocol} at {listener.endpoint}"
        yield "endpoint", f"{what}: {where}, because passwords go over it"
    if importlib.util.find_spec("twisted") is None:
        yield "protocol", f"{listener.protocol} {NEEDS_TWISTED}"


def twisted_trouble(error: ImportError) -> str:
    """What to tell of an extra that could not be imported."""
    missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "twisted"
    return NEEDS_TWISTED if missing else TWISTED_UNUSABLE


def relay_problems(relays: tuple[Relay, ...]) -> Iterator[tuple[str, str]]:
    """What no relay setting can show alone: (key, problem)."""
    names: set[str] = set()
    default = None
    for relay in relays:
        key = f"relay[{relay.name}]"
        if relay.name in names:
            yield f"{key}.name", "another relay has this name already"
        names.add(relay.name)
        if relay.default and default is not None:
            yield f"{key}.default", f"relay[{default}] is the default already"
        elif relay.default:
            default = relay.name
        yield from ((f"{key}.{name}", problem) for name, problem in _relay_problems(relay))


def _relay_problems(relay: Relay) -> Iterator[tuple[str, str]]:
    if relay.user and relay.secret_file is None:
        yield "secret_file", "missing: the file with the password of user"
    if not relay.user.isprintable():
        yield "user", "expected a name without control characters"
    if relay.protocol == "lmtp":
        if relay.user:
            yield "user", "LMTP has no login here"
        if any(host.port == 25 for host in relay.hosts):  # RFC 2033 §5
            yield "hosts", "expected another port than 25 for LMTP"
    elif any(not host.port for host in relay.hosts):
        yield "hosts", 'a UNIX socket is for protocol = "lmtp" alone'


def _content(file: str) -> bytes | Problem:
    try:
        with open(file, "rb", opener=files.regular) as stream:
            return stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        return Problem(file, "", "no such file; `mailserver init DOMAIN` makes one")
    except OSError as error:
        return Problem(file, "", f"cannot be read: {error.strerror}")


def _parse(data: bytes, file: str) -> dict[str, Any] | Problem:
    if len(data) > MAX_FILE:
        return Problem(file, "", f"expected at most {MAX_FILE} octets")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(file, f"line {line}", "expected UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        return Problem(file, "", f"no valid TOML: {error}")
    except RecursionError:
        return Problem(file, "", "nested too deeply")
    except ValueError:  # Python's own limit on the digits of a number
        return Problem(file, "", "a number is too long")


def _convert(document: dict[str, Any], file: str) -> tuple[Settings | None, list[Problem]]:
    """The settings, or every problem: what is wrong is taken out and the rest is looked at again."""
    rest = copy.deepcopy(document)
    found = list(islice(unknown(document), _MAX_PROBLEMS))
    for one in reversed(found):  # from the end, so that places in lists stay
        _remove(rest, one.path)
    while len(found) < _MAX_PROBLEMS:
        try:
            settings = msgspec.convert(rest, Settings, dec_hook=_read_value)
        except msgspec.ValidationError as error:
            wrong = finding(error, rest)
            if all(one.path != wrong.path for one in found):  # taken out as wrong: not missing too
                found.append(wrong)
            if not _take_out(rest, wrong.path):
                break
        else:
            if not found:
                return settings, []
            break
    return None, [Problem(file, text_of(one, document), one.problem) for one in found]


def _read_value(kind: type, value: object) -> object:
    return kind(value)


def _take_out(document: Any, path: Path) -> bool:
    """Make what is wrong at `path` right, so that the rest can be looked at; False where it cannot be."""
    if path[0] in _GOOD and len(path) > 1:
        document[path[0]][path[1]] = _GOOD[str(path[0])]  # keeps the places of the others
        return True
    return _remove(document, path)


def _remove(document: Any, path: Path) -> bool:
    holder = document
    for part in path[:-1]:
        holder = holder[part]
    return holder.pop(path[-1], None) is not None


def _resolve(settings: Settings, directory: str) -> Config:
    directory = os.path.abspath(directory)
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    for name in ("maildirs", "log_file", "pid_file"):
        if values[name] is not None:
            values[name] = _absolute(directory, values[name])
    values["relays"] = tuple(_resolve_relay(relay, directory) for relay in settings.relays)
    return Config(**values, directory=directory)


def _resolve_relay(relay: Relay, directory: str) -> Relay:
    paths = {
        name: PathText(_absolute(directory, path))
        for name in ("authorities", "secret_file")
        if (path := getattr(relay, name)) is not None
    }
    return replace(relay, **paths)


def _absolute(directory: str, path: str) -> str:
    return os.path.normpath(os.path.join(directory, path))
