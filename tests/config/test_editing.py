"""Settings changed by machine in files that people write: one place changes, and everything else stays."""

from __future__ import annotations

import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mailserver.config import history, layout
from mailserver.config.editing import Author, EditRefused, Settings
from mailserver.config.load import ConfigError, load
from mailserver.config.template import render

ANN = Author("ann", "telnet")
HEAD = 'hostname = "mx.example.org"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mailserver.toml"
    path.write_text(render())
    return path


@pytest.fixture
def settings(file: Path) -> Settings:
    return Settings(str(file.parent))


def added(before: str, after: str) -> list[str]:
    """The lines that are new; none may have gone."""
    left = after.splitlines()
    for line in before.splitlines():
        left.remove(line)
    return left


def values(settings: Settings, key: str = "") -> dict[str, object]:
    return {setting.key: setting.value for setting in settings.get(key)}


def test_a_setting_goes_below_the_comment_that_shows_it(file: Path, settings: Settings) -> None:
    edit = settings.set("limits.message_size", "100M", ANN)
    assert edit.changed and edit.number == 2 and edit.needs_restart == ()
    lines = file.read_text().splitlines()
    at = lines.index('message_size = "100M"')
    assert lines[at - 1] == '#message_size = "50M"'
    assert added(render(), file.read_text()) == ['message_size = "100M"']
    assert load(str(file.parent)).limits.message_size == 100 << 20
    assert settings.unset("limits.message_size", ANN).changed
    assert file.read_text() == render()


def test_every_setting_is_told_with_its_value_and_its_line(file: Path, settings: Settings) -> None:
    found = {setting.key: (setting.value, setting.line) for setting in settings.get()}
    assert found["limits.message_size"] == ("50M", 0)
    assert found["pop3.login_delay"] == ("0s", 0)
    assert found["queue.retry"] == (["5m", "15m", "30m", "1h", "2h", "4h"], 0)
    assert found["submission.accounts"] == ({"root": "*"}, 0)
    assert found["workers"] == (None, 0)
    hostname, line = found["hostname"]
    assert hostname == "mail.example.test"
    assert file.read_text().splitlines()[line - 1].startswith("hostname =")
    assert found["listener[tls:127.0.0.1:2995].protocol"][0] == "pop3"
    assert set(values(settings, "limits")) == {key for key in found if key.startswith("limits.")}
    assert values(settings, "trash.retention") == {"trash.retention": "30d"}
    assert len(values(settings, "listener[tcp:127.0.0.1:2525]")) < len(values(settings, "listener"))


def test_a_listener_is_named_by_its_endpoint_in_any_spelling(file: Path, settings: Settings) -> None:
    given = {"protocol": "lmtp", "endpoint": "tcp:2003", "proxy_from": '["10.0.0.0/8"]'}
    settings.add("listener", given, ANN)
    settings.set("listener[tcp:*:2003].allow_cleartext_login", "true", ANN)
    assert values(settings, "listener[tcp::2003]") == values(settings, "listener[tcp:*:2003]")
    assert load(str(file.parent)).listeners[-1].allow_cleartext_login
    settings.set("listener[tcp:2003].endpoint", "unix:/run/a]b.sock:mode=660", ANN)
    settings.unset("listener[unix:/run/a]b.sock:mode=660].allow_cleartext_login", ANN)
    settings.remove("listener", "unix:/run/a]b.sock:mode=660", ANN)
    assert file.read_text() == render()


def test_relays(file: Path, settings: Settings) -> None:
    settings.add("relay", {"name": "out", "hosts": '["smtp.example.net:587"]', "default": "true"}, ANN)
    settings.set("relay[out].connections", "7", ANN)
    [relay] = load(str(file.parent)).relays
    assert (relay.name, relay.default, relay.connections) == ("out", True, 7)
    with pytest.raises(EditRefused, match=r"relay\[out\]\.name: another relay has this name"):
        settings.add("relay", {"name": "out", "hosts": '["smtp.example.net:587"]'}, ANN)
    with pytest.raises(EditRefused, match=r"^relay\[third\]\.default: relay\[out\] is the default already"):
        settings.add("relay", {"name": "third", "hosts": '["127.0.0.1:26"]', "default": "true"}, ANN)
    settings.remove("relay", "out", ANN)
    assert file.read_text().strip() == render().strip()


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("limits.message_size", "5", "limits.message_size: expected a size such as 50M, at least 64K, got 5"),
        ("limits.mesage_size", "5M", "no setting limits.mesage_size; did you mean message_size"),
        ("limit.message_size", "5M", "no setting limit; did you mean limits"),
        ("limits", "5M", "limits is a table"),
        ("listener.paused", "true", "no setting|which listener"),
        ("listener[tcp:1].protocol", "smtp", "no listener tcp:1; there are tcp:127.0.0.1:2525"),
        ("limits[x].received", "5", r"there is one \[limits\] alone"),
        ("hostname.x", "5", "hostname is one setting"),
        ("limits.received\nx", "5", "expected a key"),
        ("limits.received", "101 # x\nx = 5", "limits.received: expected a whole number"),
        ("hostname", "a" * 5000, "hostname: expected a domain name"),
        ("relay[out].user", "caf\udce9", "no relay out"),
        ("maildirs", "caf\udce9", "expected"),
        ("maildirs", '"a\\u0000b"', "maildirs: expected a path"),
        ("maildirs", '"a', "is TOML, and this is none"),
        ("maildirs", '"a" # b\nc = 1', "is TOML, and this is none"),
        ("queue.retry", '["5m"', "is TOML, and this is none"),
        (
            "listener[tcp:127.0.0.1:2525].protocol",
            "imap",
            r'listener\[tcp:127.0.0.1:2525\].protocol: expected "smtp"',
        ),
    ],
)
def test_a_refused_edit_writes_nothing(
    file: Path, settings: Settings, key: str, text: str, reason: str
) -> None:
    with pytest.raises(EditRefused, match=reason) as refused:
        settings.set(key, text, ANN)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    assert file.read_text() == render()


@pytest.mark.parametrize(
    ("text", "key", "value", "expected"),
    [
        (
            'limits = { message_size = "1M", recipients = 100 } # c\n',
            "limits.recipients",
            "200",
            'limits = { message_size = "1M", recipients = 200 } # c\n',
        ),
        (
            'queue.retry = [ # all\n  "1m", # one\n "2m"]   # two\n',
            "queue.retry",
            '["5m"]',
            '# all\n# one\nqueue.retry = ["5m"]   # two\n',
        ),
        ("[queue]\n  retry = ['5m']#x", "queue.retry", '["1h"]', '[queue]\n  retry = ["1h"]#x'),
        ("queue.lifetime = '5d'", "queue.connections", "3", "queue.lifetime = '5d'\nqueue.connections = 3\n"),
        ("[ 'queue' ]", "queue.connections", "3", "[ 'queue' ]\nconnections = 3\n"),
        (
            'submission.accounts.root = "*" # r\nsubmission.accounts.ann = "a@b.test"\n',
            "submission.accounts",
            '{ root = "*", bob = "b@b.test" }',
            'submission.accounts.root = "*" # r\nsubmission.accounts.bob = "b@b.test"\n',
        ),
        (
            '[submission.accounts]\nroot = "*" # r\n# end\n',
            "submission.accounts",
            '{ root = "r@b.test" }',
            '[submission.accounts]\nroot = "r@b.test" # r\n# end\n',
        ),
        ("", "queue.connections", "3", "\n[queue]\nconnections = 3\n"),
    ],
)
def test_a_persons_way_of_writing_stays(
    file: Path, settings: Settings, text: str, key: str, value: str, expected: str
) -> None:
    for newline in ("\n", "\r\n"):
        for mark in ("", "\ufeff"):
            file.write_bytes((mark + HEAD + text).replace("\n", newline).encode())
            settings.set(key, value, ANN)
            assert file.read_bytes().decode() == (mark + HEAD + expected).replace("\n", newline)


def test_arrays_of_tables_that_are_split(file: Path, settings: Settings) -> None:
    one = '[[listener]] # one\nprotocol = "smtp"\nendpoint = "tcp:127.0.0.1:1"\n'
    two = '[[listener]] # two\nprotocol = "pop3"\nendpoint = "tcp:127.0.0.1:2"\n'
    text = HEAD + one + "[limits]\nreceived = 200 # r\n" + two + "[pop3]\n# end\n"
    file.write_text(text)
    settings.set("listener[tcp:127.0.0.1:2].allow_cleartext_login", "true", ANN)
    assert file.read_text() == text.replace(two, two + "allow_cleartext_login = true\n")
    settings.remove("listener", "tcp:127.0.0.1:1", ANN)
    assert file.read_text() == text.replace(one, "# one\n").replace(
        two, two + "allow_cleartext_login = true\n"
    )


def test_listeners_in_an_array_on_one_line(file: Path, settings: Settings) -> None:
    file.write_text(HEAD + 'listener = [{ protocol = "smtp", endpoint = "tcp:127.0.0.1:1" }] # mine\n')
    settings.add("listener", {"protocol": "pop3", "endpoint": "tcp:127.0.0.1:2"}, ANN)
    settings.set("listener[tcp:127.0.0.1:1].proxy_from", '["127.0.0.1"]', ANN)
    settings.remove("listener", "tcp:127.0.0.1:2", ANN)
    assert tomllib.loads(file.read_text())["listener"] == [
        {"protocol": "smtp", "endpoint": "tcp:127.0.0.1:1", "proxy_from": ["127.0.0.1"]}
    ]
    assert file.read_text().endswith("# mine\n")
    settings.remove("listener", "tcp:127.0.0.1:1", ANN)
    assert load(str(file.parent)).listeners == ()


def test_a_file_that_says_nothing_useful_can_be_mended_where_it_is_toml(
    file: Path, settings: Settings
) -> None:
    file.write_text(HEAD + "[limits]\nreceived = 1 # oops\n")
    with pytest.raises(EditRefused, match=r"limits\.received: expected a whole number of at least 100"):
        settings.set("hostname", "y.test", ANN)
    settings.set("limits.received", "100", ANN)
    assert file.read_text() == HEAD + "[limits]\nreceived = 100 # oops\n"
    file.write_text("hostname = ")
    with pytest.raises(EditRefused, match=r"mailserver\.toml is no valid TOML"):
        settings.set("hostname", "y.test", ANN)
    file.write_bytes(b"hostname = '\xff'")
    with pytest.raises(EditRefused, match="no UTF-8 text"):
        settings.set("hostname", "y.test", ANN)


def test_what_needs_a_restart_is_said(settings: Settings) -> None:
    assert settings.set("user", "mail", ANN).needs_restart == ("user",)
    assert settings.set("user", '"mail"', ANN).changed is False


def test_owner_mode_and_a_link_stay(file: Path, settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    real = elsewhere / "settings"
    file.rename(real)
    file.symlink_to("elsewhere/settings")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 65534, 65534)
    before = real.stat()
    settings.set("hostname", "y.test", ANN)
    assert file.is_symlink()
    after = real.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.listdir(elsewhere) == ["settings"]


def test_an_edit_by_hand_is_a_version_of_its_own(file: Path, settings: Settings) -> None:
    settings.set("hostname", "one.test", ANN)
    file.write_text(file.read_text().replace("one.test", "two.test") + "# by hand\n")
    assert settings.diff().endswith("+# by hand\n")
    assert settings.record_hand_edit() == 3
    assert settings.record_hand_edit() is None
    settings.set("hostname", "three.test", ANN)
    assert [(one.number, one.who, one.front, one.what) for one in settings.history()][1::2] == [
        (2, "ann", "telnet", "set hostname one.test"),
        (4, "ann", "telnet", "set hostname three.test"),
    ]
    assert [one.front for one in settings.history()] == ["by hand", "telnet", "by hand", "telnet"]
    assert [one.what for one in settings.history()][::2] == ["as it was found", "edited by hand"]
    assert '-hostname = "two.test"\n+hostname = "three.test"\n' in settings.diff()
    assert settings.rollback(3, ANN).number == 5
    assert file.read_text().endswith("# by hand\n") and 'hostname = "two.test"' in settings.export()
    assert settings.diff(3) == ""
    with pytest.raises(EditRefused, match="no version 99"):
        settings.rollback(99, ANN)


def test_the_history_is_for_its_owner_alone(file: Path, settings: Settings) -> None:
    settings.set("hostname", "one.test", ANN)
    directory = file.parent / ".history"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("owner", [(0, 65534), (65534, 0), (65534, 65534)])
def test_a_file_of_somebody_else_is_not_taken_from_him(memory_path: Path, owner: tuple[int, int]) -> None:
    file = memory_path / "mailserver.toml"
    file.write_text(render())
    os.chown(file.parent, 65534, 65534)
    os.chown(file, *owner)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            Settings(str(file.parent)).set("hostname", "y.test", ANN)
        except ConfigError as error:
            os._exit(1 if "chown it" in str(error) else 2)
        os._exit(0)
    done = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert done == (0 if owner == (65534, 65534) else 1)
    assert (file.stat().st_uid, file.stat().st_gid) == owner
    assert ("y.test" in file.read_text()) == (done == 0)


def test_many_machines_at_once(file: Path) -> None:
    """Each edit is made in what the one before has left."""

    def work(number: int) -> None:
        Settings(str(file.parent)).add("relay", {"name": f"r{number}", "hosts": '["a.test:25"]'}, ANN)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(24)))
    assert sorted(relay.name for relay in load(str(file.parent)).relays) == sorted(f"r{n}" for n in range(24))
    assert [one.number for one in Settings(str(file.parent)).history()] == list(range(1, 26))


def test_only_the_last_versions_are_kept(
    file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", 5)
    for number in range(8):
        settings.set("hostname", f"h{number}.test", ANN)
    assert [one.number for one in settings.history()] == [5, 6, 7, 8, 9]
    with pytest.raises(EditRefused, match="no version 4"):
        settings.diff(4)


_LEAVES = st.none() | st.booleans() | st.integers(-5, 2**63 - 1) | st.floats() | st.text(max_size=8)
_NAMES = ["hostname", "limits", "listener", "protocol", "endpoint", "relay", "name", "user", "x y"]
_DOCUMENTS = st.dictionaries(
    st.sampled_from(_NAMES),
    st.recursive(
        _LEAVES.filter(lambda value: value is not None),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    max_size=6,
)


@given(
    st.one_of(_DOCUMENTS.map(lambda document: document_text(document).encode()), st.binary(max_size=40)),
    st.sampled_from(["hostname", "limits.received", "listener[tcp:1].paused", "relay[x].hosts", "relay[x]"])
    | st.text(max_size=20),
    st.sampled_from(["1", "true", "[]", "{}", "[[]]", "x.test"]) | st.text(max_size=20),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_whatever_a_file_says_an_edit_is_made_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, key: str, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "whatever" / "mailserver.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    settings = Settings(str(file.parent))
    for act in (
        lambda: settings.get(key),
        lambda: settings.get(),
        lambda: settings.unset(key, ANN),
        lambda: settings.add("relay", {"name": text, "hosts": text, key: text}, ANN),
        lambda: settings.remove("listener", key, ANN),
        lambda: settings.set(key, text, ANN),
    ):
        try:
            act()
        except (EditRefused, ConfigError) as error:
            assert str(error)


def document_text(document: dict[str, object]) -> str:
    return "".join(f"{layout._key(name)} = {layout.literal(value)}\n" for name, value in document.items())


@pytest.mark.parametrize("broken", [b"broken", b"\xff\xfe", b'hostname = "not a host"\n', b"", None])
def test_a_file_that_is_no_configuration_goes_back(
    file: Path, settings: Settings, broken: bytes | None
) -> None:
    settings.set("hostname", "one.test", ANN)
    good = file.read_bytes()
    if broken is None:
        file.unlink()
        with pytest.raises(
            ConfigError, match="no such file; `mailserver config rollback NUMBER` makes it again"
        ):
            settings.export()
    else:
        file.write_bytes(broken)
        assert settings.export() == broken.decode(errors="replace")
    assert f"-{good.decode().splitlines()[0]}\n" in settings.diff()
    assert "+#" not in settings.diff(1)
    known = settings.last_known()
    assert known is not None and known.hostname == "one.test"
    done = settings.rollback(2, ANN)
    assert done.changed and file.read_bytes() == good
    assert settings.history()[-1].what == "rollback to 2"
    assert load(str(file.parent)).hostname == "one.test"
    settings.set("hostname", "two.test", ANN)
    assert settings.history()[-1].number == done.number + 1


def test_a_missing_file_does_not_wait_to_be_confirmed(file: Path, settings: Settings) -> None:
    settings.set("hostname", "one.test", ANN, confirm=60)
    file.unlink()
    settings.rollback(1, ANN)
    assert file.read_text() == render() and settings.pending() is None
    file.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        settings.rollback(1, ANN, confirm=60)


def test_what_is_no_configuration_is_kept_only_when_it_is_replaced(file: Path, settings: Settings) -> None:
    settings.record_hand_edit()
    for count in range(5):  # as log lines would make it
        file.write_text("broken\n" * (count + 1))
        assert settings.record_hand_edit() is None
    assert [one.number for one in settings.history()] == [1]
    settings.rollback(1, ANN)
    assert [one.front for one in settings.history()] == ["by hand", "by hand", "telnet"]
    with pytest.raises(EditRefused, match=r"^version 2 is no configuration: no valid TOML"):
        settings.rollback(2, ANN)
    file.write_bytes(b"\xff")
    settings.rollback(1, ANN)
    with pytest.raises(EditRefused, match=r"^version 4 is no configuration: mailserver\.toml is no UTF-8"):
        settings.rollback(4, ANN)
    file.write_text("hostname = 7\n")
    settings.rollback(1, ANN)
    with pytest.raises(EditRefused, match=r"^version 6 is no configuration: hostname: expected"):
        settings.rollback(6, ANN)


def test_where_nothing_is_the_place_is_told(file: Path, settings: Settings) -> None:
    assert settings.history() == []
    file.unlink()
    with pytest.raises(ConfigError, match=f"^{file}: no such file; `mailserver init DOMAIN` makes one$"):
        settings.history()
    with pytest.raises(EditRefused, match=f"^no version 30 in {file.parent}/.history$"):
        settings.rollback(30, ANN)


def test_a_number_of_thousands_of_digits_is_none(file: Path, settings: Settings) -> None:
    with pytest.raises(EditRefused, match=r"limits\.recipients: expected a whole number"):
        settings.set("limits.recipients", "9" * 5000, ANN)
    with pytest.raises(EditRefused, match="begins with a quote or bracket"):
        settings.set("limits.recipients", f"[{'9' * 5000}]", ANN)
    file.write_text(f"{HEAD}workers = {'9' * 5000}\n")
    with pytest.raises(ConfigError, match="a number is too long"):
        load(str(file.parent))
    with pytest.raises(EditRefused, match="a number that is too long"):
        settings.get()
