"""Settings of mail that leaves: relays, submission, queue; what they become for the parts that send."""

import os

import pytest

from mailserver.config import load, outgoing
from mailserver.config.outgoing_values import Allowed, Hosts, Lifetime, Rate, RelayName, Vouched, Waits
from mailserver.delivery.relay import Host
from mailserver.delivery.relays import Relays
from mailserver.delivery.security import Level
from mailserver.mail.address import Address, parse_mailbox

HEAD = 'hostname = "mx.example.org"\n'
RELAY = '[[relay]]\nname = "{0}"\nhosts = ["smtp.{0}.example:587"]\n'


def read(tmp_path, text):
    (tmp_path / "mailserver.toml").write_text(HEAD + text)
    config, found = load.read(str(tmp_path))
    return config, [str(problem).partition("mailserver.toml: ")[2] for problem in found]


def test_a_relay_becomes_one_that_carries_mail(tmp_path):
    config, found = read(
        tmp_path,
        """
        [[relay]]
        name = "provider"
        hosts = ["SMTP.example.net:587", "192.0.2.1:2525", "[2001:db8::1]:465"]
        tls = "implicit"
        verify = false
        authorities = "/etc/ca.pem"
        user = "ann"
        secret_file = "secrets/provider"
        senders = ["Ann@Bücher.example"]
        sender_domains = ["Example.ORG"]
        recipient_domains = ["bücher.example"]
        default = true
        connections = 2
        rate = "30/m"
        """,
    )
    assert found == []
    [relay] = outgoing.relays(config)
    assert relay.hosts == (Host("smtp.example.net", 587), Host("192.0.2.1", 2525), Host("2001:db8::1", 465))
    assert (relay.name, relay.tls, relay.verify, relay.default) == ("provider", Level.IMPLICIT, False, True)
    assert (relay.user, relay.secret) == ("ann", str(tmp_path / "secrets" / "provider"))
    assert relay.authorities == "/etc/ca.pem"
    assert (relay.connections, relay.rate) == (2, 0.5)
    assert relay.senders == ("ann@xn--bcher-kva.example", "example.org")
    assert relay.recipients == ("xn--bcher-kva.example",)


@pytest.mark.parametrize(
    ("sender", "recipient", "taken"),
    [
        ("ann@a.test", "x@other.test", "ann"),
        ("ANN@a.test", "x@r.test", "ann"),
        ("bob@a.test", "x@other.test", "domain"),
        ("bob@b.test", "x@r.test", "recipient"),
        ("bob@b.test", "x@other.test", "rest"),
        (None, "x@other.test", "rest"),
    ],
)
def test_settings_choose_the_relay(tmp_path, sender, recipient, taken):
    config, found = read(
        tmp_path,
        RELAY.format("rest")
        + "default = true\n"
        + RELAY.format("recipient")
        + 'recipient_domains = ["r.test"]\n'
        + RELAY.format("domain")
        + 'sender_domains = ["a.test"]\n'
        + RELAY.format("ann")
        + 'senders = ["ann@a.test"]\n',
    )
    assert found == []
    chosen = Relays(outgoing.relays(config)).choose(
        parse_mailbox(sender) if sender else None, parse_mailbox(recipient)
    )
    assert chosen.name == taken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[relay]]\nname = "a"\n', "relay[a].hosts: missing"),
        ('[[relay]]\nname = "a"\nhosts = []\n', "relay[a].hosts: expected a list of hosts with ports"),
        ('[[relay]]\nname = "a"\nhosts = ["b"]\n', "relay[a].hosts: expected a host with its port"),
        ('[[relay]]\nname = "../a"\nhosts = ["b:1"]\n', "relay[0].name: expected a name of at most 64"),
        (RELAY.format("a") * 2, "relay[a].name: another relay has this name already"),
        (
            "".join(RELAY.format(name) + "default = true\n" for name in "ab"),
            "relay[b].default: relay[a] is the default already",
        ),
        (RELAY.format("a") + 'user = "x"\n', "relay[a].secret_file: missing"),
        (RELAY.format("a") + 'user = "x\\ny"\nsecret_file = "x"\n', "relay[a].user: expected a name without"),
        (
            RELAY.format("a") + 'tls = "maybe"\n',
            'relay[a].tls: expected "none" or "opportunistic" or "required" or "implicit", got "maybe"',
        ),
        (
            RELAY.format("a").replace("587", "25") + 'protocol = "lmtp"\n',
            "relay[a].hosts: expected another port",
        ),
        (RELAY.format("a") + 'recipient = "x"\n' + RELAY.format("a"), "relay[0].recipient: unknown setting"),
        (RELAY.format("a") + 'recipient = "x"\n', "relay[a].recipient: unknown setting; did you mean"),
        ('[[relay]]\nname = "a"\nhosts = ["unix:/x"]\n', "relay[a].hosts: a UNIX socket is for"),
        ("[queue]\nretry = []\n", "queue.retry: expected a list of durations"),
        ('[queue]\nretry = ["0s"]\n', "queue.retry: expected a duration over 0"),
        ('[queue]\nlifetime = "10m"\n', "queue.lifetime: expected a duration of at least 1h"),
        ('[queue]\nrate_per_destination = "fast"\n', "queue.rate_per_destination: expected a rate"),
        ("[queue]\nconnections = 0\n", "queue.connections: expected a whole number of at least 1"),
        ("[submission]\nsenders = 1\n", "submission.senders: expected a [table]"),
        ('[submission.senders]\nann = ["x@y.test"]\n', "submission.senders: expected an address"),
        ('[submission.senders]\n"a@b.test" = "x@y.test"\n', "submission.senders: expected lists"),
        ('[submission.accounts]\nroot = "anybody"\n', "submission.accounts: expected an address"),
        ("[submission]\nrecipients = 50\n", "submission.recipients: expected a whole number of at least 100"),
    ],
)
def test_problems(tmp_path, text, expected):
    config, [line] = read(tmp_path, text)
    assert config is None
    assert line.startswith(expected)


def test_a_relay_to_a_mail_store(tmp_path):
    config, found = read(
        tmp_path, '[[relay]]\nname = "store"\nprotocol = "lmtp"\nhosts = ["unix:/run/dovecot/lmtp"]\n'
    )
    assert found == []
    [relay] = outgoing.relays(config)
    assert (relay.hosts, relay.lmtp, relay.tls) == ((Host("/run/dovecot/lmtp", 0),), True, Level.NONE)


def test_the_schedule_and_the_pace(tmp_path):
    config, _ = read(
        tmp_path,
        '[queue]\nretry = ["1m", "2m"]\nlifetime = "2d"\ndelay_notice = "0s"\nrate_per_destination = "2/s"\n',
    )
    schedule = outgoing.schedule(config)
    assert (schedule.intervals, schedule.lifetime, schedule.notice) == ((60.0, 120.0), 172800.0, 0.0)
    assert outgoing.pace(config) == (5, 2.0)


def test_who_may_send_as_whom(tmp_path):
    config, _ = read(
        tmp_path,
        """
        [submission]
        senders = { "Ann@a.test" = ["Info@B.test", "@bücher.example"] }
        accounts = { root = "*", 4711 = "shop@a.test", no-such-account = "*" }
        """,
    )
    assert outgoing.further_senders(config) == {"ann@a.test": ("info@b.test", "@xn--bcher-kva.example")}
    vouched = outgoing.vouched(config)
    assert vouched == {os.geteuid(): None, 0: None, 4711: Address("shop", "a.test")}


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (Hosts, ["a:0"]),
        (Hosts, ["a:65536"]),
        (Hosts, ["a b:25"]),
        (Hosts, ["a\r\n:25"]),
        (Hosts, [5]),
        (Hosts, "a:25"),
        (Hosts, ["a:25"] * 21),
        (RelayName, ""),
        (RelayName, "a" * 65),
        (Rate, True),
        (Rate, "0/s"),
        (Rate, 5),
        (Rate, "1/d"),
        (Waits, "5m"),
        (Waits, ["1m"] * 101),
        (Lifetime, "59m"),
        (Allowed, {"a@b.test": ["@"]}),
        (Vouched, {"ro/ot": "*"}),
    ],
)
def test_no_value(kind, bad):
    with pytest.raises(ValueError, match="expected"):
        kind(bad)
