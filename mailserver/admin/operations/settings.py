"""Operations on the configuration, and on the listeners and relays in it: into the file, and live at once.

A change that the running server cannot use is taken back. Not here: editing (`config.editing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, get_args

import msgspec

from mailserver.admin.entries import Confirmed, ListenerEntry, Text
from mailserver.admin.operation import (
    ADDRESS,
    COUNT,
    DOMAIN,
    DURATION,
    FLAG,
    TEXT,
    Kind,
    Operation,
    Parameter,
    choice,
)
from mailserver.admin.operations.relays import HOST, RELAY
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.config.editing import Author, Edit, Setting, Settings, Version
from mailserver.config.model import ListenerProtocol, RelayTls
from mailserver.config.values import EndpointText

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

Change = Callable[[Settings, Author], Edit]

KEPT = {
    "maildirs": "not beside a running server, which is reached there: stop it, set this, move the mail, start"
}
"""What no operator changes while a server runs, and why."""


async def _apply(call: Call, change: Change, confirm: float | None) -> Edit:
    """Make a change and have a server that runs use it; one it cannot use is taken back. Raises Refused."""
    settings = Settings(call.config.directory, KEPT if call.server.running else None)
    by = Author(call.operator.name, call.front)
    done = await call.blocking(change, settings, by)
    if not done.changed or not call.server.running:
        return done
    try:
        await call.server.reload()
    except Refused as error:
        if confirm is None:
            await call.blocking(settings.rollback, done.number - 1, by)
        else:
            await call.blocking(settings.take_back, by)
        with suppress(Refused):  # what is wrong has been said
            await call.server.reload()  # all but a listener may be in force already
        raise Refused(f"taken back, for the server cannot use it: {error}") from None
    return msgspec.structs.replace(done, live=True)


# ---- the file


def get(call: Call, key: str = "") -> list[Setting]:
    return Settings(call.config.directory).get(key)


async def set_(call: Call, key: str, value: str, confirm: float | None = None) -> Edit:
    return await _apply(call, lambda file, by: file.set(key, value, by, confirm), confirm)


async def unset(call: Call, key: str, confirm: float | None = None) -> Edit:
    return await _apply(call, lambda file, by: file.unset(key, by, confirm), confirm)


async def rollback(call: Call, number: int, confirm: float | None = None) -> Edit:
    return await _apply(call, lambda file, by: file.rollback(number, by, confirm), confirm)


def confirm_(call: Call) -> Confirmed:
    pending = Settings(call.config.directory).confirm()
    return Confirmed(pending.who, pending.front, pending.until)


def diff(call: Call, number: int | None = None) -> Text:
    return Text(Settings(call.config.directory).diff(number))


def history(call: Call) -> list[Version]:
    return Settings(call.config.directory).history()


def export(call: Call) -> Text:
    return Text(Settings(call.config.directory).export())


# ---- listeners and relays


def list_listeners(call: Call) -> list[ListenerEntry]:
    return [
        ListenerEntry(
            str(one.endpoint),  # plain text, as it goes into JSON
            one.protocol,
            tuple(map(str, one.proxy_from)),
            one.allow_cleartext_login,
            one.paused,
        )
        for one in call.config.listeners
    ]


async def add_listener(call: Call, confirm: float | None = None, **values: object) -> Edit:
    return await _apply(call, lambda file, by: file.add("listener", _toml(values), by, confirm), confirm)


async def pause_listener(call: Call, endpoint: str, confirm: float | None = None) -> Edit:
    return await set_(call, f"listener[{endpoint}].paused", "true", confirm)


async def resume_listener(call: Call, endpoint: str, confirm: float | None = None) -> Edit:
    return await set_(call, f"listener[{endpoint}].paused", "false", confirm)


async def remove_listener(call: Call, endpoint: str, confirm: float | None = None) -> Edit:
    return await _apply(call, lambda file, by: file.remove("listener", endpoint, by, confirm), confirm)


async def add_relay(call: Call, confirm: float | None = None, **values: object) -> Edit:
    return await _apply(call, lambda file, by: file.add("relay", _toml(values), by, confirm), confirm)


async def remove_relay(call: Call, name: str, confirm: float | None = None) -> Edit:
    return await _apply(call, lambda file, by: file.remove("relay", name, by, confirm), confirm)


def _toml(values: Mapping[str, object]) -> dict[str, str]:
    """Texts, truths and lists as TOML, which writes these as JSON does."""
    plain = {key: [str(one) for one in v] if isinstance(v, tuple) else v for key, v in values.items()}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in plain.items()}


# ---- the operations

KEY = Kind("KEY", str, listed=("config get", "key"))
ENDPOINT = Kind("ENDPOINT", EndpointText, listed=("listener list", "endpoint"))

_READS = frozenset({Role.AUDITOR})
_KEY = Parameter("key", KEY, "Such as limits.message_size or listener[tcp:*:25].paused.")
_UNTIL = "Taken back after so long, such as 60s, unless `config confirm` comes."
_CONFIRM = Parameter("confirm", DURATION, _UNTIL, False, option=True)
_ENDPOINT = Parameter("endpoint", ENDPOINT, "Such as tcp:*:25.")
_CLEARTEXT = "Logins without TLS from other machines."


def _option(name: str, kind: Kind, help: str, many: bool = False) -> Parameter:
    return Parameter(name, kind, help, needed=False, many=many, option=True)


OPERATIONS = (
    Operation(
        "config get",
        "Settings as they are in the file, with their lines (0: the default).",
        get,
        (Parameter("key", KEY, "A setting or a table; else all.", needed=False),),
        _READS,
    ),
    Operation(
        "config set",
        "Change a setting, on a running server at once.",
        set_,
        (_KEY, Parameter("value", TEXT, "As in the file; quotes may be left out."), _CONFIRM),
        changes=True,
    ),
    Operation("config unset", "Give a setting its default again.", unset, (_KEY, _CONFIRM), changes=True),
    Operation(
        "config diff",
        "What differs between a version and the file now.",
        diff,
        (Parameter("number", COUNT, "A version of `config history`; else the last but one.", False),),
        _READS,
    ),
    Operation("config history", "All versions that are kept, the oldest first.", history, roles=_READS),
    Operation(
        "config rollback",
        "Make the file again what it was in a version.",
        rollback,
        (Parameter("number", COUNT, "A version of `config history`."), _CONFIRM),
        changes=True,
    ),
    Operation("config export", "The file as it is.", export, roles=_READS),
    Operation("config confirm", "A change that would be taken back, stays.", confirm_, changes=True),
    Operation("listener list", "Where the server listens.", list_listeners, roles=_READS),
    Operation(
        "listener add",
        "Listen in one more place.",
        add_listener,
        (
            Parameter("protocol", choice(*get_args(ListenerProtocol))),
            Parameter("endpoint", Kind("ENDPOINT", EndpointText), "Such as tcp:*:25."),
            _option("proxy_from", TEXT, "Peers that must begin with a PROXY header.", many=True),
            _option("allow_cleartext_login", FLAG, _CLEARTEXT),
            _CONFIRM,
        ),
        changes=True,
    ),
    Operation(
        "listener pause",
        "Accept nothing new there; sessions go on.",
        pause_listener,
        (_ENDPOINT, _CONFIRM),
        changes=True,
    ),
    Operation("listener resume", "Accept again there.", resume_listener, (_ENDPOINT, _CONFIRM), changes=True),
    Operation(
        "listener remove", "Listen there no more.", remove_listener, (_ENDPOINT, _CONFIRM), changes=True
    ),
    Operation(
        "relay add",
        "Add a relay.",
        add_relay,
        (
            Parameter("name", Kind("NAME", str)),
            Parameter("hosts", HOST, "Such as mail.example.net:587, tried in this order.", many=True),
            _option("tls", choice(*get_args(RelayTls)), "Default: required."),
            _option("user", TEXT, "For its login."),
            _option("secret_file", TEXT, "The file with the password."),
            _option("senders", ADDRESS, "Whose mail takes it.", many=True),
            _option("sender_domains", DOMAIN, "Whose senders' mail takes it.", many=True),
            _option("recipient_domains", DOMAIN, "For whose recipients mail takes it.", many=True),
            _option("default", FLAG, "All other mail takes it."),
            _CONFIRM,
        ),
        changes=True,
    ),
    Operation(
        "relay remove", "Remove a relay.", remove_relay, (Parameter("name", RELAY), _CONFIRM), changes=True
    ),
)
