"""Every setting of the model: set to another value by machine, read back, given its default again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.config import keys
from mailserver.config.editing import Author, EditRefused, Settings
from mailserver.config.load import load
from mailserver.config.model import FIXED
from mailserver.config.outgoing_values import Allowed, Hosts, Rate, Vouched, Waits
from mailserver.config.template import render
from mailserver.config.values import Duration, Networks, Size
from mailserver.config.written import written

ANN = Author("ann", "telnet")
TABLES = """
[[listener]]
protocol = "lmtp"
endpoint = "unix:/run/lmtp.sock"

[[relay]]
name = "out"
hosts = ["smtp.example.net:587"]
secret_file = "secrets/out"
"""

# Of each setting a value that is not its default, as an operator gives it.
OTHERS = {
    "hostname": "mx.other.test",
    "default_domain": "other.test",
    "maildirs": "/srv/mail",
    "user": "mail",
    "group": "mail",
    "allow_root": "true",
    "workers": "3",
    "log_file": "/var/log/x",
    "pid_file": "/run/x.pid",
    "listener.protocol": "smtp",
    "listener.endpoint": "unix:/run/other.sock",
    "listener.proxy_from": '["10.0.0.0/8"]',
    "listener.allow_cleartext_login": "true",
    "listener.paused": "true",
    "relay.name": "other",
    "relay.hosts": '["a.test:25", "b.test:25"]',
    "relay.protocol": "lmtp",
    "relay.tls": "implicit",
    "relay.verify": "false",
    "relay.authorities": "ca.pem",
    "relay.user": "bob",
    "relay.secret_file": "secrets/other",
    "relay.senders": '["ann@a.test"]',
    "relay.sender_domains": '["a.test"]',
    "relay.recipient_domains": '["b.test"]',
    "relay.default": "true",
    "relay.connections": "7",
    "relay.rate": "10/s",
    "limits.message_size": "70M",
    "limits.recipients": "200",
    "limits.header_size": "128K",
    "limits.received": "150",
    "limits.connections": "77",
    "limits.connections_per_address": "7",
    "limits.idle_timeout": "6m",
    "limits.session_timeout": "3h",
    "limits.drain_timeout": "10s",
    "submission.messages_per_hour": "5",
    "submission.messages_per_day": "6",
    "submission.recipients": "200",
    "submission.hide_client": "true",
    "submission.senders": '{ "ann@a.test" = ["@b.test"] }',
    "submission.accounts": '{ root = "ann@a.test" }',
    "queue.retry": '["1m", "2m"]',
    "queue.lifetime": "3d",
    "queue.delay_notice": "0s",
    "queue.connections": "50",
    "queue.connections_per_destination": "2",
    "queue.rate_per_destination": "30/m",
    "pop3.idle_timeout": "15m",
    "pop3.login_delay": "5s",
    "trash.retention": "10d",
    "passwords.upgrade": "false",
    "passwords.failure_delay": "2s",
    "addresses.recipient_delimiter": "-",
    "console.python": "true",
    "console.idle_timeout": "1h",
    "console.connections": "20",
}
NEEDED = {"hostname", "listener.protocol", "listener.endpoint", "relay.name", "relay.hosts"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "mailserver.toml").write_text(render() + TABLES)
    return Settings(str(tmp_path))


def test_no_setting_is_left_out() -> None:
    document = {"listener": [{"endpoint": "unix:/a"}], "relay": [{"name": "a"}]}
    found = [re.sub(r"\[.*\]", "", str(key)) for key in keys.all_keys(document)]
    assert found == list(OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_can_be_set_and_read_back(settings: Settings, name: str) -> None:
    table, _, key = name.rpartition(".")
    place = {"listener": "listener[unix:/run/lmtp.sock]", "relay": "relay[out]"}.get(table, table)
    full = f"{place}.{key}" if place else key
    [before] = settings.get(full)
    edit = settings.set(full, OTHERS[name], ANN)
    assert edit.changed and edit.needs_restart == ((name,) if name in FIXED else ())
    now = load(settings.directory)
    if name in ("listener.endpoint", "relay.name"):
        full = full.replace("unix:/run/lmtp.sock", OTHERS[name]).replace("relay[out]", "relay[other]")
    [after] = settings.get(full)
    assert after.value in keys.candidates(OTHERS[name])
    assert after.value != before.value
    assert after.line > 0
    held: Any = now
    if table in ("listener", "relay"):
        held = {"listener": now.listeners, "relay": now.relays}[table][-1]
    elif table:
        held = getattr(now, table)
    default = next(f.default for f in msgspec.structs.fields(type(held)) if f.encode_name == key)
    assert getattr(held, key) != default
    if name in NEEDED:
        with pytest.raises(EditRefused, match="missing"):
            settings.unset(full, ANN)
    else:
        settings.unset(full, ANN)
        [unset] = settings.get(full)
        assert unset.line == 0


def test_no_setting_is_a_secret() -> None:
    """What is told by `get`, `diff` and `history` needs no hiding: secrets are in files that settings name."""
    assert not [
        name
        for name in OTHERS
        if re.search("password|secret|key|token", name.rpartition(".")[2]) and not name.endswith("_file")
    ]


@given(
    st.one_of(
        st.integers(0, 10**12 - 1).map(Size),
        st.integers(0, 10**8).map(Duration),
        st.integers(0, 10**6).map(lambda count: Duration(f"{count}ms")),
        st.tuples(st.integers(1, 10**6), st.sampled_from("smh")).map(
            lambda rate: Rate(f"{rate[0]}/{rate[1]}")
        ),
        st.just(Rate(0)),
        st.lists(st.integers(1, 10**8), min_size=1, max_size=5).map(Waits),
        st.just(Hosts(["a.test:25", "[::1]:25", "unix:/run/x"])),
        st.just(Networks(["10.0.0.0/8", "::1"])),
        st.just(Allowed({"a@b.test": ["@c.test", "d@e.test"], '"x y"@b.test': []})),
        st.just(Vouched({"root": "*", "mail": "a@b.test"})),
    )
)
def test_a_value_as_it_is_written_is_that_value(value: Any) -> None:
    assert type(value)(written(value)) == value
