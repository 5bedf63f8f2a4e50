"""Changes of the configuration by operators: into the file and live, taken back where the server cannot."""

from __future__ import annotations

import msgspec
import pytest
from administered import AUDITOR, OWNER, populated

from mailserver.admin.refused import Refused, told
from mailserver.admin.sentences import outcome
from mailserver.config.editing import EditRefused, Settings
from mailserver.directory import Malformed


@pytest.fixture
def there(memory_path):
    made = populated(memory_path)
    yield made
    made.close()


def text(there):
    return (there.directory / "mailserver.toml").read_text()


def test_a_setting_is_changed_live_and_has_a_history(there):
    before = text(there)
    done = there.perform(OWNER, "config set", key="limits.recipients", value="200")
    assert (done.number, done.changed, done.needs_restart, done.live) == (2, True, (), True)
    assert there.server.asked == ["reload"]
    assert there.config.limits.recipients == 200
    assert "# for the world" in text(there)
    [setting] = there.perform(AUDITOR, "config get", key="limits.recipients")
    assert setting.value == 200
    last = there.perform(AUDITOR, "config history")[-1]
    assert (last.number, last.who, last.front, last.what) == (2, "olga", "test", "set limits.recipients 200")
    assert "+recipients = 200" in there.perform(AUDITOR, "config diff").text
    assert there.perform(AUDITOR, "config export").text == text(there)
    there.perform(OWNER, "config rollback", number=1)
    assert text(there) == before
    assert there.server.asked == ["reload", "reload"]


def test_what_is_as_it_was_disturbs_nobody(there):
    there.perform(OWNER, "config set", key="limits.recipients", value="200")
    assert not there.perform(OWNER, "config set", key="limits.recipients", value="200").changed
    assert there.server.asked == ["reload"]


def test_a_change_that_the_server_cannot_use_is_taken_back(there):
    before = text(there)
    there.server.refuses = "tcp:127.0.0.1:2110: address in use"
    with pytest.raises(Refused, match=r"^taken back, for the server cannot use it: tcp:127\.0\.0\.1:2110"):
        there.perform(OWNER, "listener add", protocol="pop3", endpoint="tcp:127.0.0.1:2110")
    assert text(there) == before
    with pytest.raises(Refused, match="taken back"):
        there.perform(OWNER, "config set", key="limits.recipients", value="200", confirm="60s")
    assert text(there) == before
    assert Settings(str(there.directory)).pending() is None
    there.server.refuses = ""
    there.perform(OWNER, "config set", key="limits.recipients", value="200")


def test_a_running_server_is_not_parted_from_those_who_ask_it(there):
    there.server.running = False
    there.perform(OWNER, "config set", key="maildirs", value=f"{there.directory}/elsewhere")
    there.server.running = True
    before = text(there)
    for words, given in (
        ("config set", {"key": "maildirs", "value": "/var/other"}),
        ("config unset", {"key": "maildirs"}),
        ("config rollback", {"number": 1}),
    ):
        with pytest.raises(EditRefused, match=r"^maildirs: not beside a running server.*: stop it, set this"):
            there.perform(OWNER, words, **given)
    assert (text(there), there.server.asked) == (before, [])


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("config set", {"key": "limits.recipients", "value": "some"}),
        ("config set", {"key": "limits.nothing", "value": "1"}),
        ("config set", {"key": "limits", "value": "1"}),
        ("config get", {"key": "nothing"}),
        ("config set", {"key": "limits.recipients", "value": "200", "confirm": "0s"}),
        ("config unset", {"key": "hostname"}),
        ("config rollback", {"number": 99}),
        ("config diff", {"number": 99}),
        ("config confirm", {}),
        ("listener pause", {"endpoint": "tcp:127.0.0.1:9"}),
        ("listener remove", {"endpoint": "tcp:127.0.0.1:9"}),
        ("listener add", {"protocol": "smtp", "endpoint": "tcp:127.0.0.1:2525"}),
        ("listener add", {"protocol": "smtp", "endpoint": "tcp:*:26", "proxy_from": ["nonsense"]}),
        ("relay add", {"name": "out", "hosts": ["127.0.0.1:9"]}),
        ("relay add", {"name": "more", "hosts": ['x"]\nhostname = "eve.test']}),
        ("relay add", {"name": "more", "hosts": ["127.0.0.1:9"], "user": "x"}),
        ("relay remove", {"name": "none"}),
    ],
)
def test_what_makes_no_sense_changes_nothing(there, words, given):
    before = text(there)
    with pytest.raises((Refused, EditRefused)) as refusal:
        there.perform(OWNER, words, **given)
    assert (text(there), there.server.asked) == (before, [])
    assert told(refusal.value) != "it could not be done; the log says why"


def test_a_change_waits_to_be_confirmed(there):
    there.perform(OWNER, "config set", key="limits.recipients", value="200", confirm="60s")
    pending = Settings(str(there.directory)).pending()
    assert (pending.who, pending.front) == ("olga", "test")
    with pytest.raises(EditRefused, match="a change by olga waits to be confirmed"):
        there.perform(OWNER, "config set", key="limits.recipients", value="300")
    confirmed = there.perform(OWNER, "config confirm")
    assert (confirmed.who, confirmed.until) == ("olga", pending.until)
    assert there.config.limits.recipients == 200


def test_listeners_come_pause_and_go(there):
    there.perform(
        OWNER,
        "listener add",
        protocol="pop3",
        endpoint="tcp:127.0.0.1:2110",
        proxy_from=["127.0.0.1", "10.0.0.0/8"],
        allow_cleartext_login=True,
    )
    there.administration.config = there.config
    added = there.perform(AUDITOR, "listener list")[1]
    assert (added.endpoint, added.protocol, added.paused) == ("tcp:127.0.0.1:2110", "pop3", False)
    assert (added.proxy_from, added.allow_cleartext_login) == (("127.0.0.1/32", "10.0.0.0/8"), True)
    for words, paused in (("listener pause", True), ("listener resume", False)):
        there.perform(OWNER, words, endpoint="tcp:127.0.0.1:2525")
        there.administration.config = there.config
        assert there.perform(AUDITOR, "listener list")[0].paused is paused
    there.perform(OWNER, "listener remove", endpoint="tcp:127.0.0.1:2110")
    assert [one.endpoint for one in there.config.listeners] == ["tcp:127.0.0.1:2525"]
    assert there.server.asked == ["reload"] * 4


def test_relays_come_and_go(there):
    there.perform(
        OWNER,
        "relay add",
        name="more",
        hosts=["mail.far.test:587", "[::1]:26"],
        tls="required",
        senders=["ann@a.test"],
        sender_domains=["b.test"],
        default=True,
    )
    there.administration.config = there.config
    relay = there.perform(AUDITOR, "relay list")[1]
    assert (relay.hosts, relay.tls, relay.default) == (("mail.far.test:587", "[::1]:26"), "required", True)
    assert relay.senders == ("ann@a.test", "b.test")
    there.perform(OWNER, "relay remove", name="more")
    assert [one.name for one in there.config.relays] == ["out"]


def test_a_relay_is_tested_step_by_step(there):
    steps = there.watch(OWNER, "relay test", most=100, name="out")
    assert steps
    assert not steps[-1].good


# ---- domains and users, whose settings are files of their own


@pytest.mark.parametrize(("words", "domain"), [("domain set", "a.test"), ("domain add", "new.test")])
@pytest.mark.parametrize("target", ["nobody@a.test", "ann@a.test", "x@elsewhere.test"])
def test_a_catch_all_that_is_nobody_is_told(there, words, domain, target):
    shown = there.perform(OWNER, words, domain=domain, catch_all=target)
    nobody = [target] if target == "nobody@a.test" else []
    assert (shown.catch_all, list(shown.unknown)) == (target, nobody)
    lines = outcome(words, {}, msgspec.to_builtins(shown))
    assert [line for line in lines if "neither" in line] == [
        f"{t} is neither a user nor an alias yet" for t in nobody
    ]


def test_settings_of_a_domain(there):
    file = there.directory / "domains/a.test/domain.toml"
    file.write_text('# ours\nquota = "1M" # each\n')
    shown = there.perform(OWNER, "domain set", domain="a.test", catch_all="ann@a.test", quota_messages=5)
    assert (shown.catch_all, shown.quota, shown.quota_messages) == ("ann@a.test", 1 << 20, 5)
    shown = there.perform(
        OWNER, "domain set", domain="a.test", no_catch_all=True, quota="2M", undeliverable_to_postmaster="yes"
    )
    assert (shown.catch_all, shown.quota, shown.undeliverable_to_postmaster) == (None, 2 << 20, True)
    assert "# ours" in file.read_text()
    assert "# each" in file.read_text()
    for given in ({}, {"no_catch_all": True, "catch_all": "ann@a.test"}):
        with pytest.raises(Refused, match="say what is to be set"):
            there.perform(OWNER, "domain set", domain="a.test", **given)
    file.write_text("quota = [\n")
    with pytest.raises(Exception, match=r"domain\.toml"):
        there.perform(OWNER, "domain set", domain="a.test", quota="1M")
    assert file.read_text() == "quota = [\n"


def test_settings_of_a_user(there):
    shown = there.perform(OWNER, "user set", address="ann@a.test", quota="1M", quota_messages=7, enabled="no")
    assert (shown.quota, shown.quota_messages, shown.enabled) == (1 << 20, 7, False)
    shown = there.perform(OWNER, "user set", address="ann@a.test", inherit_quota=True, enabled=True)
    assert (shown.quota, shown.quota_messages, shown.enabled) == (0, 0, True)
    for given in ({}, {"inherit_quota": True, "quota": "1M"}):
        with pytest.raises(Refused, match="say what is to be set"):
            there.perform(OWNER, "user set", address="ann@a.test", **given)


def test_a_new_domain_has_what_was_said(there):
    shown = there.perform(
        OWNER, "domain add", domain="c.test", catch_all="all@c.test", quota="1M", maildirs="/srv/mail"
    )
    assert (shown.catch_all, shown.mailboxes, shown.quota) == ("all@c.test", "/srv/mail", 1 << 20)
    with pytest.raises((Refused, Malformed)):
        there.perform(OWNER, "domain add", domain="d.test", maildirs="relative")


def test_running(there):
    there.perform(OWNER, "reload")
    there.perform(OWNER, "session close", id="1-1")
    there.perform(OWNER, "drain")
    there.perform(OWNER, "stop")
    assert there.server.asked == ["reload", "close 1-1", "drain", "stop"]
    assert there.perform(AUDITOR, "counters")[0].name == "login.ok"
    assert there.watch(AUDITOR, "status --watch")[0] == there.perform(AUDITOR, "status")
