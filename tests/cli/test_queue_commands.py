"""`queue`, `relay` and `trace` as people run them, with and without a server."""

import json
import os

import destinations
import pytest
import serving
from click.testing import CliRunner

from mailserver.cli.idle import idle_state
from mailserver.cli.program import program
from mailserver.config.load import load
from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.queue.spool import Spool

RELAY = """
[[relay]]
name = "out"
hosts = ["127.0.0.1:{port}"]
tls = "none"
default = true
"""


@pytest.fixture
def site():
    with serving.site() as made:
        yield made


def put(site, *ids):
    """Put messages into the queue, as a commit does."""
    spool = Spool(str(site.mail / ".queue"))
    spool.prepare()
    for entry_id in ids:
        envelope = Envelope(Address("ann", "example.test"), (Recipient(Address("joe", "far.test")),))
        departure = spool.destination(entry_id, envelope, size=14, wire_size=17)
        destinations.put(spool, departure, b"Subject: x\n\nx\n")


def run(site, *arguments, stdin=""):
    return CliRunner().invoke(program, ["--config", str(site.config), *arguments], input=stdin)


def done(site, *arguments):
    result = run(site, *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(site, *arguments, code=1):
    result = run(site, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("mailserver: ").strip()


def test_a_queue_at_rest(site):
    site.configure([])
    assert done(site, "queue", "list") == ""
    put(site, "M1", "M2")
    assert [line.split()[:2] for line in done(site, "queue", "list").splitlines()] == [
        ["M1", "waiting"],
        ["M2", "waiting"],
    ]
    assert "joe@far.test" in done(site, "queue", "show", "M1")
    with idle_state(load(str(site.config))):  # a look needs nobody to be away
        assert done(site, "queue", "destinations") == ""
    assert done(site, "queue", "hold", "M1", "M2") == "2 messages held\n"
    assert json.loads(done(site, "queue", "release", "M1", "--json")) == {"done": 1}
    assert done(site, "queue", "retry", "--all") == "1 message due now\n"  # held ones stay held
    states = {entry["id"]: entry["state"] for entry in json.loads(done(site, "queue", "list", "--json"))}
    assert states == {"M1": "waiting", "M2": "held"}
    shown = json.loads(done(site, "queue", "show", "M2", "--json"))
    assert (shown["held"], shown["recipients"][0]["status"]) == (True, "pending")
    assert done(site, "queue", "drop", "M1", "--yes") == "1 message removed for good\n"
    assert refused(site, "queue", "show", "M1") == "no message M1 in the queue"
    assert refused(site, "queue", "drop", "M2") == "no terminal to ask on; say --yes"


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "drop"])
def test_messages_are_named_or_all_of_them(site, verb):
    site.configure([])
    assert "say --all" in refused(site, "queue", verb, "--yes" if verb == "drop" else "--json")
    assert "say --all" in refused(site, "queue", verb, "M1", "--all", "--yes" if verb == "drop" else "--json")


def test_beside_a_running_server(site):
    port = site.ports.take()
    site.configure([], RELAY.format(port=port), top="workers = 2")
    put(site, "M1")
    with site.serve() as server:
        server.event("delivery", id="M1", outcome="deferred")
        assert done(site, "queue", "hold", "M1") == "1 message held\n"
        server.event("held", id="M1")
        assert json.loads(done(site, "queue", "show", "M1", "--json"))["held"]
        assert done(site, "queue", "release", "M1") == "1 message released\n"
        server.event("delivery", id="M1", outcome="deferred")
        while json.loads(done(site, "queue", "list", "--json"))[0]["state"] != "deferred":
            pass
        assert done(site, "queue", "retry", "--all") == "1 message due now\n"
        server.event("delivery", id="M1", outcome="deferred")
        [entry] = json.loads(done(site, "queue", "list", "--json"))
        assert entry["reply"].startswith("4.4.1 ")
        assert refused(site, "queue", "drop", "M7", "--yes") == "no message M7 in the queue"
        assert done(site, "queue", "drop", "M1", "--yes") == "1 message removed for good\n"
        server.event("dropped", id="M1")
        assert done(site, "queue", "list") == ""


def test_relays_are_listed(site):
    site.configure([])
    assert done(site, "relay", "list") == ""
    site.configure([], RELAY.format(port=25))
    [relay] = json.loads(done(site, "relay", "list", "--json"))
    assert relay == {
        "name": "out",
        "hosts": ["127.0.0.1:25"],
        "protocol": "smtp",
        "tls": "none",
        "user": "",
        "senders": [],
        "recipients": [],
        "default": True,
        "trouble": "",
    }


def test_a_relay_is_tried_in_plain_words(site):
    smtp, nobody = site.ports.take(), site.ports.take()
    site.configure([("smtp", f"tcp:127.0.0.1:{smtp}")], RELAY.format(port=smtp))
    with site.serve(), serving.site() as other:
        # the host is this very server, which the doctor finds out
        result = run(site, "relay", "test", "out")
        assert result.exit_code == 1
        assert "the host is this server itself" in result.stdout
        other.configure([], RELAY.format(port=smtp))
        text = (other.config / "mailserver.toml").read_text()
        other.write("mailserver.toml", text.replace(serving.HOST, "other.example.test"))
        result = run(other, "relay", "test", "out")
        assert (result.exit_code, result.stderr) == (0, "")
        assert all(line.startswith("ok    ") for line in result.stdout.splitlines())
        assert f"{serving.HOST} ESMTP" in result.stdout
        steps = [
            json.loads(line) for line in run(other, "relay", "test", "out", "--json").stdout.splitlines()
        ]
        assert all(step["good"] for step in steps)
    site.configure([], RELAY.format(port=nobody))
    result = run(site, "relay", "test", "out")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"FAIL  127.0.0.1[127.0.0.1]:{nobody}: ")
    assert refused(site, "relay", "test", "in") == "no relay in"


def test_a_relay_without_its_secret(site):
    site.configure([], RELAY.format(port=25) + 'user = "ann"\nsecret_file = "out.secret"\n')
    result = run(site, "relay", "test", "out")
    assert result.exit_code == 1
    assert "the secret file cannot be read" in result.stdout
    assert str(site.config) not in result.stdout


LOG = """\
T event=received id=M1 sender=<ann@a.test>
T event=received id=M2 sender=<ann@a.test>
T event=settled id=M1 delivered=1
"""


def test_trace_reads_the_configured_log_or_others(site, tmp_path):
    site.configure([])
    assert refused(site, "trace", "M1").startswith("the log goes to standard error; say --log-file")
    old, new = tmp_path / "log.1", tmp_path / "log"
    old.write_text(LOG[: LOG.index("\n") + 1])
    new.write_bytes(b"\xff\n" + LOG[LOG.index("\n") + 1 :].encode())
    files = ("--log-file", str(old), "--log-file", str(new))
    story = "T event=received id=M1 sender=<ann@a.test>\nT event=settled id=M1 delivered=1\n"
    assert done(site, "trace", "M1", *files) == story
    result = run(site, "trace", "M1", "--log-file", "-", stdin=LOG)
    assert (result.exit_code, result.stdout) == (0, story)
    site.configure([], top=f'log_file = "{new}"')
    assert done(site, "trace", "M1") == "T event=settled id=M1 delivered=1\n"
    assert refused(site, "trace", "M7") == "the log says nothing of M7"
    assert "no id of a message" in refused(site, "trace", "M1 or so", code=2)
    os.unlink(new)
    assert "No such file" in refused(site, "trace", "M1")
