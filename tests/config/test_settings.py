"""Reading mailserver.toml: what is right becomes values, what is wrong one line that helps."""

import importlib.util
import tomllib

import msgspec
import pytest
import tomlkit
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mailserver.config import load
from mailserver.config.model import NEEDS_TWISTED, TWISTED_UNUSABLE, Config, Listener
from mailserver.config.overrides import Overrides
from mailserver.config.values import Duration, EndpointText, Networks, Size

LISTENER = '[[listener]]\nprotocol = "smtp"\nendpoint = "tcp:127.0.0.1:2525"\n'


def read(tmp_path, text):
    (tmp_path / "mailserver.toml").write_text(text)
    return load.read(str(tmp_path))


def problems(tmp_path, text):
    config, found = read(tmp_path, text)
    assert config is None
    prefix = f"{tmp_path}/mailserver.toml: "
    assert all(str(problem).startswith(prefix) and "\n" not in str(problem) for problem in found)
    return [str(problem).removeprefix(prefix) for problem in found]


def test_paths_count_from_the_configuration_directory(tmp_path):
    config, _ = read(tmp_path, 'hostname = "MX.Example.org"\nlog_file = "../log"\npid_file = "/run/x.pid"')
    assert config.hostname == "mx.example.org"
    assert config.directory == str(tmp_path)
    assert config.maildirs == str(tmp_path.parent / "maildirs")
    assert config.log_file == str(tmp_path.parent / "log")
    assert config.pid_file == "/run/x.pid"
    assert config.domains == str(tmp_path / "domains")


@pytest.mark.parametrize("name", ["\udcff", "two\nlines"])
def test_a_directory_whose_name_is_no_text_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    config, (problem,) = read(tmp_path / name, 'hostname = "x.test"')
    assert config is None
    assert str(problem).isprintable()
    assert "expected a path of printable characters" in str(problem)


def test_values_are_in_octets_and_seconds(tmp_path):
    text = (
        'hostname = "x.test"\n[limits]\nmessage_size = "1M"\nidle_timeout = "2m"\n[trash]\nretention = "7d"'
    )
    config, _ = read(tmp_path, text)
    assert (config.limits.message_size, config.limits.idle_timeout) == (1 << 20, 120.0)
    assert config.trash.retention == 7 * 86400.0


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    found = problems(
        tmp_path,
        """
        hostname = "not a host"
        hostnam = 1
        pop3 = 3
        user = ""
        limits = { recipients = 99, message_size = "lots", recieved = 100, idle_timeout = "0s" }
        [[listener]]
        protocol = "imap"
        endpoint = "tcp:127.0.0.1:1"
        [[listener]]
        endpoint = "tcp:127.0.0.1:2"
        [[listener]]
        protocol = "smtp"
        endpoint = "tcp:127.0.0.1"
        [[listener]]
        protocol = "smtp"
        endpoint = "tcp:127.0.0.1:3"
        proxy_from = ["10.0.0.1/8"]
        """,
    )
    assert sorted(line.partition(": ")[0] for line in found) == [
        "hostnam",
        "hostname",
        "limits.idle_timeout",
        "limits.message_size",
        "limits.recieved",
        "limits.recipients",
        "listener[2].endpoint",
        "listener[tcp:127.0.0.1:1].protocol",
        "listener[tcp:127.0.0.1:2].protocol",
        "listener[tcp:127.0.0.1:3].proxy_from",
        "pop3",
        "user",
    ]
    assert 'limits.message_size: expected a size such as 500K, 50M or 1G, got "lots"' in found
    assert "limits.recipients: expected a whole number of at least 100, got 99" in found
    assert 'limits.recieved: unknown setting; did you mean "received"?' in found
    assert (
        'listener[tcp:127.0.0.1:1].protocol: expected "smtp" or "lmtp" or "submission" or "pop3" or "telnet" or "pb", got "imap"'
        in found
    )
    assert "listener[tcp:127.0.0.1:2].protocol: missing" in found
    assert "pop3: expected a [table], got 3" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "hostname: missing"),
        ('hostname = "x.test"\nx', "no valid TOML: Expected '=' after a key in a key/value pair"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ('hostname = "x.test"\n"a\\u0007b.c" = 1', '"a\\u0007b.c": unknown setting'),
        ('hostname = "x.test"\nallow_root = "yes"', 'allow_root: expected true or false, got "yes"'),
        ('hostname = "x.test"\nlistener = 1', "listener: expected [[a list of tables]], got 1"),
        (
            'hostname = "x.test"\n' + LISTENER * 2,
            "listener[tcp:127.0.0.1:2525].endpoint: another listener has this endpoint already",
        ),
        (
            'hostname = "x.test"\n' + LISTENER.replace("smtp", "lmtp").replace("2525", "25"),
            "listener[tcp:127.0.0.1:25].endpoint: expected another port than 25 for LMTP",
        ),
        ('hostname = "x.test"\nlog_file = "a\\nb"', 'log_file: expected a path, got "a\\nb"'),
        ('hostname = "' + "a" * 300 + '"', "hostname: expected a domain name such as mail.example.org, got"),
    ],
)
def test_one_problem_is_one_line(tmp_path, text, expected):
    [line] = problems(tmp_path, text)
    assert line.startswith(expected)
    assert len(line) < 300


@pytest.mark.parametrize("protocol", ["telnet", "pb"])
@pytest.mark.parametrize(
    ("endpoint", "fits"),
    [
        ("unix:/run/console.sock", True),
        ("tcp:127.0.0.1:2323", True),
        ("tcp:127.9.9.9:2323", True),
        ("tcp:[::1]:2323", True),
        ("tcp:localhost:2323", True),
        ("tls:*:2323", True),
        ("fd+tls:console", True),
        ("tcp:*:2323", False),
        ("tcp:192.0.2.1:2323", False),
        ("tcp:[::1234]:2323", False),
        ("tcp:127.example.org:2323", False),
        ("tcp:localhost.example.org:2323", False),
        ("fd:console", False),
    ],
)
def test_operators_passwords_cross_no_network_in_clear(tmp_path, monkeypatch, protocol, endpoint, fits):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    config, found = read(
        tmp_path, f'hostname = "x.test"\n[[listener]]\nprotocol = "{protocol}"\nendpoint = "{endpoint}"'
    )
    assert (config is not None) == fits
    where = "allowed on a UNIX socket, on loopback or with tls: only"
    assert fits or f"{protocol} at {endpoint}: {where}, because passwords go over it" in str(found[0])


def test_a_console_without_twisted_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = 'hostname = "x.test"\n' + LISTENER.replace("smtp", "pb")
    assert problems(tmp_path, text) == [
        "listener[tcp:127.0.0.1:2525].protocol: pb needs Twisted: pip install '.[console]' in the checkout, "
        "by the pip of this environment"
    ]


_NAMES = [
    "hostname",
    "limits",
    "listener",
    "protocol",
    "endpoint",
    "message_size",
    "proxy_from",
    "pop3",
    "user",
]
_KEYS = st.sampled_from([*_NAMES, "x` - at `$.limits", "[0]", "a.b", ""]) | st.text(max_size=5)
_LEAVES = st.none() | st.booleans() | st.integers(-5, 2**63 - 1) | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(
    _LEAVES.filter(lambda value: value is not None),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_a_file_says_it_is_values_or_lines(tmp_path_factory, document):
    try:
        text = tomlkit.dumps(document)
        tomllib.loads(text)
    except ValueError:  # tomlkit's text is not always TOML
        assume(False)
    place = tmp_path_factory.getbasetemp() / "settings"
    place.mkdir(exist_ok=True)
    (place / "mailserver.toml").write_bytes(text.encode())
    config, found = load.read(str(place))
    assert (config is None) == bool(found)
    assert all(str(problem).isprintable() for problem in found)
    assert len({problem.key for problem in found}) == len(found) or any("listener" in p.key for p in found)


def test_not_utf8_names_the_line(tmp_path):
    (tmp_path / "mailserver.toml").write_bytes(b'hostname = "x.test"\n# caf\xe9\n')
    with pytest.raises(load.ConfigError, match=r"mailserver\.toml: line 2: expected UTF-8 text"):
        load.load(str(tmp_path))


def test_a_missing_file_says_what_makes_one(tmp_path):
    with pytest.raises(load.ConfigError, match="no such file; `mailserver init DOMAIN` makes one"):
        load.load(str(tmp_path))


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "mailserver.toml", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(load.ConfigError, match="expected at most"):
        load.load(str(tmp_path))


@pytest.mark.parametrize("bad", ["1y", "-1s", "", "s", "1.5h", True, 1.5, None, "1" * 30 + "s"])
def test_no_duration(bad):
    with pytest.raises(ValueError, match="expected a duration"):
        Duration(bad)


@pytest.mark.parametrize(
    ("good", "seconds"), [("500ms", 0.5), ("10s", 10), (" 2h ", 7200), ("1w", 604800), (3, 3)]
)
def test_durations(good, seconds):
    assert Duration(good) == seconds


@pytest.mark.parametrize("bad", [True, 1.5, "-1", "1X", [], None])
def test_no_size(bad):
    with pytest.raises(ValueError, match="expected a size"):
        Size(bad)


def test_networks_are_networks():
    assert Networks(["127.0.0.1", "2001:db8::/32"])[1].version == 6
    with pytest.raises(ValueError, match="expected an address or network"):
        Networks(["example.org"])


def test_overrides_replace_listeners_of_their_protocols_alone(tmp_path):
    pop3 = LISTENER.replace("smtp", "pop3").replace("2525", "2110")
    config, _ = read(tmp_path, 'hostname = "x.test"\nuser = "mail"\n' + LISTENER + pop3)
    given = Listener(protocol="smtp", endpoint=EndpointText("unix:/tmp/x"))
    changed = Overrides(listeners=(given,), pid_file="x.pid").apply(config)
    assert [listener.endpoint for listener in changed.listeners] == ["tcp:127.0.0.1:2110", "unix:/tmp/x"]
    assert changed.user == "mail"
    assert changed.pid_file.startswith("/")
    assert isinstance(changed, Config)


def test_overrides_are_checked_like_the_file(tmp_path):
    config, _ = read(tmp_path, 'hostname = "x.test"\n' + LISTENER)
    given = Listener(protocol="pop3", endpoint=EndpointText("tcp:127.0.0.1:2525"))
    with pytest.raises(load.ConfigError, match="command line: listener"):
        Overrides(listeners=(given,)).apply(config)


def test_a_configuration_cannot_be_changed(tmp_path):
    config, _ = read(tmp_path, 'hostname = "x.test"\n')
    with pytest.raises(AttributeError):
        config.hostname = "y.test"
    assert msgspec.structs.replace(config, hostname="y.test") != config


OWN = ["mailserver.toml", "domains/a.test/domain.toml", "operators/x", "tls/x/privkey.pem", ".history/1.toml"]


@pytest.mark.parametrize("key", ["log_file", "pid_file"])
@pytest.mark.parametrize("path", [*OWN, "secrets/out", "../maildirs/.queue/x", "link", "linked/x"])
def test_logs_and_process_numbers_destroy_no_file_of_the_server(tmp_path, key, path):
    (tmp_path / "link").symlink_to("mailserver.toml")
    (tmp_path / "linked").symlink_to("domains")
    assert problems(tmp_path, f'hostname = "x.test"\n{key} = "{path}"\n') == [
        f"{key}: expected a file that is not the server's own"
    ]


@pytest.mark.parametrize("path", ["mailserver.toml", "operators/x", "domains/a.test/users/ann"])
def test_what_is_secret_here_is_no_password_for_a_relay(tmp_path, path):
    relay = f'[[relay]]\nname = "out"\nhosts = ["x.test:587"]\nuser = "me"\nsecret_file = "{path}"\n'
    assert problems(tmp_path, f'hostname = "x.test"\n{relay}') == [
        "relay[out].secret_file: expected a file that is not the server's own"
    ]


def test_a_log_does_not_go_into_the_secret_of_a_relay(tmp_path):
    relay = '[[relay]]\nname = "out"\nhosts = ["x.test:587"]\nuser = "me"\nsecret_file = "/etc/secret"\n'
    found = problems(tmp_path, f'hostname = "x.test"\nlog_file = "/etc/../etc/secret"\n{relay}')
    assert found == ["log_file: expected a file that is not the server's own"]


def test_what_the_command_line_gives_destroys_no_file_of_the_server(tmp_path):
    config, _ = read(tmp_path, 'hostname = "x.test"\n')
    with pytest.raises(load.ConfigError, match="command line: pid_file: expected a file that is not"):
        Overrides(pid_file=str(tmp_path / "mailserver.toml")).apply(config)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("no", name="twisted"), NEEDS_TWISTED),
        (ModuleNotFoundError("no", name="twisted.spread"), NEEDS_TWISTED),
        (ModuleNotFoundError("no", name="zope"), TWISTED_UNUSABLE),
        (ImportError("cannot import name", name="twisted"), TWISTED_UNUSABLE),
    ],
)
def test_only_a_missing_twisted_is_to_be_installed(error, told):
    assert load.twisted_trouble(error) == told
