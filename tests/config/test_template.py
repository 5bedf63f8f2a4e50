"""The commented file: complete, true about the defaults, and the same as the one that is checked in."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from mailserver.config import load
from mailserver.config.model import Listener, Relay, Settings
from mailserver.config.template import EXAMPLE_DOMAIN, PUBLIC, render

CHECKED_IN = Path(__file__).parents[2] / "config" / "mailserver.toml"
EXAMPLES = {"workers", "user", "group", "log_file", "pid_file"}  # settings without a default


def uncommented():
    """The file with every setting that a comment shows switched on."""
    return tomllib.loads(re.sub(r"^#(?=\[\[|[a-z_0-9]+ = )", "", render(), flags=re.MULTILINE))


def test_the_checked_in_file_is_the_template():
    assert CHECKED_IN.read_text() == render()


def test_every_setting_is_in_the_template():
    document = uncommented()
    for field in msgspec.structs.fields(Settings):
        assert field.encode_name in document
        if isinstance(field.default, msgspec.Struct):
            section = document[field.encode_name]
            assert set(section) == set(field.default.__struct_fields__)
    for name, kind in (("listener", Listener), ("relay", Relay)):
        shown = set().union(*document[name])
        assert shown == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_what_comments_show_are_the_defaults(tmp_path):
    document = uncommented()
    (tmp_path / "mailserver.toml").write_text('hostname = "mail.example.test"\n')
    defaults = load.load(str(tmp_path))
    text = re.sub(r"^#(?=\[\[|[a-z_0-9]+ = )", "", render(), flags=re.MULTILINE)
    (tmp_path / "mailserver.toml").write_text(text)
    shown = load.load(str(tmp_path))
    for field in msgspec.structs.fields(Settings):
        if field.encode_name not in {*EXAMPLES, "listener", "relay", "default_domain"}:
            assert getattr(shown, field.name) == getattr(defaults, field.name), field.name
    assert document["default_domain"] == EXAMPLE_DOMAIN


def test_the_ports_of_make_run_are_fixed_and_on_loopback(tmp_path):
    (tmp_path / "mailserver.toml").write_text(render())
    listeners = [(one.protocol, one.endpoint) for one in load.load(str(tmp_path)).listeners]
    assert listeners == [
        ("smtp", "tcp:127.0.0.1:2525"),
        ("submission", "tcp:127.0.0.1:2587"),
        ("submission", "tls:127.0.0.1:2465"),
        ("pop3", "tcp:127.0.0.1:2110"),
        ("pop3", "tls:127.0.0.1:2995"),
    ]


@pytest.mark.parametrize("path", ['/srv/"mail"', "/srv/back\\slash", "/srv/é"])
def test_values_are_quoted(tmp_path, path):
    text = render("example.org", "mx.example.org", PUBLIC, maildirs=path, user="mail")
    (tmp_path / "mailserver.toml").write_text(text)
    config = load.load(str(tmp_path))
    assert (config.maildirs, config.user, config.hostname) == (path, "mail", "mx.example.org")
    assert [one.endpoint for one in config.listeners] == [endpoint for _, endpoint in PUBLIC]
