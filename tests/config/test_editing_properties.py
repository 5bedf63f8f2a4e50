"""Any sequence of edits by machines and by people: the file says what was meant, every comment is still there."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mailserver.config.editing import Author, EditRefused, Settings
from mailserver.config.load import examine
from mailserver.config.template import render

ANN = Author("ann", "telnet")
LISTENER = '[[listener]] #c1\nprotocol = "smtp" #c2\n#c3\nendpoint = "tcp:127.0.0.1:1"\n'

BEGINNINGS = [
    render(),
    'hostname = "x.test"',
    'hostname = "x.test"\n' + LISTENER + '[limits] #c4\nreceived = 200\n' + LISTENER.replace(':1"', ':5"'),
    """\
    # c0
    hostname   =  'x.test'#c1
    limits.received = 200 #c2
    limits . "recipients" = 300
    queue = { lifetime = "4d", retry = ["1m", "2m"] } #c3
    listener = [
      { protocol = "smtp", endpoint = "tcp:127.0.0.1:1" }, #c4
      #c5
      { protocol = "pop3", endpoint = "tcp:127.0.0.1:2", proxy_from = [] } ]
    submission.accounts.root = "*" #c6
    submission.accounts."www-data" = "a@b.test"
    """,
    """\
hostname = '''
x.test'''
# [limits]
[ 'limits' ] #c1
"received" = 1_00 #c2
  [submission.accounts] #c3
  root = "*"
[trash]
#c4
[queue] #c5
retry = [ #c6
  "1m", #c7

  # c8 "2m", ]
  "3m"
] #c9
[[relay]]
name = "out.1"
hosts = ["[::1]:25", #c10
]
[pop3]
[[relay]] #c11
name = "two"
hosts = ["a.test:25"]
[[listener]]
endpoint = "unix:/run/a]b.sock:mode=660"
protocol = "lmtp"
""",
]  # fmt: skip

SCALARS = {
    "hostname": ["a.test", '"b.test"', "'c.test'"],
    "workers": ["2", "3"],
    "user": ["mail", "1000", "true"],
    "allow_root": ["true", "false"],
    "limits.received": ["100", "101"],
    "limits.message_size": ["100M", "65536", '"1G"'],
    "queue.lifetime": ["1d", "2w"],
    "queue.retry": ['["5m"]', '["1m", "2h"]', '["1m", "3m"]'],
    "queue.connections": ["5"],
    "trash.retention": ["1d", '"2d"'],
    "pop3.login_delay": ["5s"],
    "addresses.recipient_delimiter": ['""', "-", "#"],
    "submission.accounts": ["{}", '{ root = "*" }', '{ bob = "b@x.test", "www-data" = "*" }'],
    "submission.senders": ["{}", '{ "a@x.test" = ["b@x.test", "@y.test"] }', '{ "#c@x.test" = [] }'],
    "console.python": ["true"],
    "hostnam": ["x"],
    "limits.recipients": ["5"],
}
ENDPOINTS = [
    "tcp:127.0.0.1:1",
    "tcp:127.0.0.1:2",
    "tls:2465",
    "unix:/run/a]b.sock:mode=660",
    "unix:/x#c.sock",
]
RELAYS = ["out.1", "two", "three"]
LISTENER_VALUES = {
    "paused": ["true", "false"],
    "protocol": ["smtp", "pop3"],
    "proxy_from": ["[]", '["127.0.0.1", "10.0.0.0/8"]'],
    "endpoint": ENDPOINTS,
}
RELAY_VALUES = {
    "hosts": ['["b.test:25"]', '["b.test:25", "[::1]:25"]'],
    "default": ["true"],
    "rate": ["10/s", "0"],
}


def pairs(table: dict[str, list[str]]) -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from([(key, text) for key, texts in table.items() for text in texts])


MACHINE = st.one_of(
    st.tuples(st.just("set"), pairs(SCALARS)),
    st.tuples(st.just("unset"), st.sampled_from([*SCALARS, "listener[tcp:127.0.0.1:1].proxy_from"])),
    st.tuples(st.just("listener"), st.sampled_from(ENDPOINTS), pairs(LISTENER_VALUES)),
    st.tuples(st.just("relay"), st.sampled_from(RELAYS), pairs(RELAY_VALUES)),
    st.tuples(st.just("add"), st.just("listener"), st.sampled_from(ENDPOINTS)),
    st.tuples(st.just("add"), st.just("relay"), st.sampled_from(RELAYS)),
    st.tuples(st.just("remove"), st.just("listener"), st.sampled_from(ENDPOINTS)),
    st.tuples(st.just("remove"), st.just("relay"), st.sampled_from(RELAYS)),
)
HAND = st.tuples(
    st.sampled_from(["comment", "inline", "blank", "indent", "spaces", "swap", "move", "lines", "end", "crlf", "mark"]),
    st.integers(0, 300),
    st.integers(0, 300),
)  # fmt: skip
STEPS = st.lists(
    st.one_of(MACHINE.map(lambda step: ("machine", step)), HAND.map(lambda step: ("hand", step))), max_size=14
)

_numbers = itertools.count(100)


# ---- people


def by_hand(text: str, kind: str, first: int, second: int) -> str:
    """What a person makes of a text; it may be no TOML."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    at, other = first % len(lines), second % len(lines)
    edits: dict[str, Callable[[], list[str] | str]] = {
        "comment": lambda: [*lines[:at], f"  #c{next(_numbers)} [x] 'it''s\" = \n", *lines[at:]],
        "inline": lambda: [*lines[:at], re.sub(r"(\r?\n?)\Z", rf" #c{next(_numbers)}\1", lines[at], count=1), *lines[at + 1 :]],
        "blank": lambda: [*lines[:at], " \t\n" if second % 2 else "\n", *lines[at:]],
        "indent": lambda: [*lines[:at], "\t " + lines[at], *lines[at + 1 :]],
        "spaces": lambda: [*lines[:at], lines[at].replace("=", "\t =  ", 1).replace(",", "  ,   "), *lines[at + 1 :]],
        "swap": lambda: [lines[other if n == at else at if n == other else n] for n in range(len(lines))],
        "move": lambda: moved(text, first, second),
        "lines": lambda: text.replace("[\"", f"[ #c{next(_numbers)}\n\"", 1) if first % 2 else text.replace("\", ", "\" ,\n"),
        "end": lambda: text.rstrip("\r\n") if first % 2 else text + "\n\n",
        "crlf": lambda: text.replace("\r\n", "\n") if "\r" in text else text.replace("\n", "\r\n"),
        "mark": lambda: text.removeprefix("\ufeff") if text.startswith("\ufeff") else "\ufeff" + text,
    }  # fmt: skip
    return "".join(edits[kind]())


def moved(text: str, first: int, second: int) -> str:
    """A table at another place: arrays are split by this."""
    head, *blocks = re.split(
        r"^(?=[ \t]*\[)", text if text.endswith("\n") else text + "\n", flags=re.MULTILINE
    )
    if not blocks:
        return text
    block = blocks.pop(first % len(blocks))
    blocks.insert(second % (len(blocks) + 1), block)
    return head + "".join(blocks)


# ---- what was meant, computed apart


def meant(before: dict[str, Any], step: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What the file may say after a step of the machine."""
    kind, *rest = step
    after = copy.deepcopy(before)
    if kind == "unset":
        table, _, key = rest[0].rpartition(".")
        held = after.get(table, {}) if table else after
        if "[" in table:
            held = named(after, "listener", "tcp:127.0.0.1:1") or {}
        held.pop(key, None)
        return [after]
    if kind == "add":
        name = "endpoint" if rest[0] == "listener" else "name"
        further = {"protocol": "smtp"} if rest[0] == "listener" else {"hosts": ["a.test:25"]}
        after.setdefault(rest[0], []).append({name: rest[1], **further})
        return [after]
    if kind == "remove":
        after.get(rest[0], []).remove(named(after, *rest) or {})
        return [after]
    if kind in ("listener", "relay"):
        held, (key, text) = named(after, kind, rest[0]), rest[1]
    else:
        table, _, key = rest[0][0].rpartition(".")
        held, text = after.setdefault(table, {}) if table else after, rest[0][1]
    return [change(after, held, key, value) for value in readings(text)] if held is not None else []


def change(after: dict[str, Any], held: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    held[key] = value
    return copy.deepcopy(after)


def readings(text: str) -> list[object]:
    try:
        return [tomllib.loads(f"x = {text}")["x"], text]
    except tomllib.TOMLDecodeError:
        return [text]


def named(document: dict[str, Any], table: str, name: str) -> dict[str, Any] | None:
    key = "endpoint" if table == "listener" else "name"
    return next((one for one in document.get(table, []) if one[key] == name), None)


def trimmed(document: dict[str, Any]) -> str:
    """An empty table is as good as none; the order in a table is nobody's concern."""
    return json.dumps(
        {key: value for key, value in document.items() if value not in ({}, [])}, sort_keys=True
    )


def perform(configuration: Settings, step: tuple[Any, ...]) -> None:
    kind, *rest = step
    if kind == "set":
        configuration.set(*rest[0], ANN)
    elif kind == "unset":
        configuration.unset(rest[0], ANN)
    elif kind == "add":
        given = (
            {"endpoint": rest[1], "protocol": "smtp"}
            if rest[0] == "listener"
            else {"name": rest[1], "hosts": '["a.test:25"]'}
        )
        configuration.add(rest[0], given, ANN)
    elif kind == "remove":
        configuration.remove(*rest, ANN)
    else:
        configuration.set(f"{kind}[{rest[0]}].{rest[1][0]}", rest[1][1], ANN)


def parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text.removeprefix("\ufeff"))


def inline_arrays(text: str) -> str:
    """Arrays of tables that are a value: what goes from one of them leaves its comments above it."""
    return "".join(re.findall(r"^\s*(?:listener|relay)\s*=\s*\[.*?\]$", text, re.MULTILINE | re.DOTALL))


def marks(text: str) -> list[str]:
    return re.findall(r"#c\d+|# c\d+", text)


@contextmanager
def directory() -> Iterator[Path]:
    """In memory where there is some."""
    path = Path(
        tempfile.mkdtemp(prefix="mailserver-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )
    try:
        yield path
    finally:
        shutil.rmtree(path)


UNPROVEN = re.compile(
    "would say something else|would be no TOML|comment would be lost|cannot be edited|too long|no valid TOML"
)


@given(st.sampled_from(BEGINNINGS), STEPS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_machines_and_people(beginning: str, steps: list[tuple[str, tuple[Any, ...]]]) -> None:
    with directory() as path:
        file = path / "mailserver.toml"
        file.write_bytes(beginning.encode())
        configuration = Settings(str(path))
        for who, step in steps:
            before = file.read_bytes().decode()
            if who == "hand":
                after = by_hand(before, *step)
                if examine(after.encode(), str(path))[0] is not None and marks(before) == [
                    m for m in marks(after) if m in marks(before)
                ]:
                    file.write_bytes(after.encode())
                continue
            try:
                perform(configuration, step)
            except EditRefused as refusal:
                assert file.read_bytes().decode() == before
                assert not UNPROVEN.search(str(refusal)), (before, step)
                event(f"refused: {str(refusal)[:30]}")
                continue
            after = file.read_bytes().decode()
            event(f"done: {step[0]}")
            assert examine(after.encode(), str(path))[0] is not None
            assert trimmed(parsed(after)) in [trimmed(one) for one in meant(parsed(before), step)], (
                before,
                step,
            )
            assert sorted(marks(after)) == sorted(marks(before))
            if (
                step[0] in ("set", "unset", "add")
                and "retry" not in str(step)
                and "\n" not in inline_arrays(before)
            ):
                assert marks(after) == marks(before)
            assert ("\r\n" in after) == ("\r\n" in before) and after.startswith(
                "\ufeff"
            ) == before.startswith("\ufeff")
        for version in configuration.history():
            assert version.front in ("telnet", "by hand")


def test_the_beginnings_are_configurations() -> None:
    assert all(examine(beginning.encode(), "/")[0] is not None for beginning in BEGINNINGS)
