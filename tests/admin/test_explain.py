"""What is explained is what happens: every address is explained, and then sent to; and who sees what of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from administered import ADMIN, AUDITOR, HELP_DESK, OWNER, populated
from conversation import Memory
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from outbound import PEOPLE, TRUSTED, Outbound
from relay_attempts import FORMS

import mailserver.smtp.conversation as conversation
from mailserver.admin.entries import Explanation
from mailserver.admin.explain import Question, explain
from mailserver.admin.refused import Forbidden, Refused
from mailserver.config import outgoing
from mailserver.config.load import load
from mailserver.config.model import Config
from mailserver.delivery.relays import Relays
from mailserver.delivery.ways import Ways
from mailserver.directory import Missing
from mailserver.mail.address import Address, parse_mailbox
from mailserver.mail.srs import Srs
from mailserver.transport.listener import Peer

KEY = b"a secret of enough octets"
SETTINGS = """\
hostname = "mx.example.test"
default_domain = "example.test"
maildirs = "maildirs"

[[relay]]
name = "ann"
hosts = ["127.0.0.1:9"]
tls = "none"
senders = ["ann@example.test"]

[[relay]]
name = "catch"
hosts = ["127.0.0.1:9"]
tls = "none"
sender_domains = ["catch.test"]

[[relay]]
name = "other"
hosts = ["127.0.0.1:9"]
tls = "none"
recipient_domains = ["other.test"]
"""

NAMES = sorted({file.rpartition("/")[2].replace("%20", " ") for file in PEOPLE} | {"postmaster", "nobody"})
DOMAINS = sorted({file.partition("/")[0] for file in PEOPLE})

LOCALS = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).map(str.upper),
    st.builds("{}+{}".format, st.sampled_from(NAMES), st.sampled_from(["", "tag", "a+b"])),
    st.sampled_from(["victim%elsewhere.test", "elsewhere.test!victim", "Änne", "x" * 64, "a.b", "+", "+x"]),
    st.text("ab+%!.", min_size=1, max_size=6),
).map(lambda local: local if local.replace("+", "").replace(".", "").isalnum() else f'"{local}"')
PLACES = st.sampled_from(
    [*DOMAINS, "EXAMPLE.test", "bücher.example", "elsewhere.test", "other.test", "[127.0.0.1]", "nobody.test"]
)
ADDRESSES = st.builds("{}@{}".format, LOCALS, PLACES)
RECIPIENTS = st.one_of(
    ADDRESSES,
    ADDRESSES,
    st.sampled_from(["postmaster", "PostMaster"]),
    st.builds("@relay.test:{}".format, ADDRESSES),
    st.sampled_from(
        [
            form[1:-1]
            for form in FORMS
            if form.startswith("<") and form.endswith(">") and ">" not in form[1:-1]
        ]
    ),
)


class Site:
    """A server's parts in memory, and its configuration as the administration reads it."""

    def __init__(self, root: Path) -> None:
        (root / "mailserver.toml").write_text(SETTINGS)
        self.office = Outbound(root, now=time.time())
        self.office.forwarding._srs = Srs(KEY)
        (root / "maildirs" / ".srs.key").write_bytes(KEY)
        self.config: Config = load(str(root))
        self.routes = Routes(Relays(outgoing.relays(self.config)))

    def explained(self, recipient: str, sender: str, submitted: bool, size: int) -> Explanation:
        question = Question(recipient, parse_mailbox(sender) if sender else None, submitted, size)
        return asyncio.run(explain(self.config, question, OWNER, self.office.pool))

    def sent(self, recipient: str, sender: str, submitted: bool, size: int) -> tuple[str, bool]:
        """What a client hears of the recipient, and whether the message was taken."""
        announced = f" SIZE={size}" if size else ""
        body = b"x" * (size or 3)
        lines = f"EHLO c.test\r\nMAIL FROM:<{sender}> SMTPUTF8{announced}\r\nRCPT TO:<{recipient}>\r\n"
        text = lines.encode() + b"BDAT %d LAST\r\n" % len(body) + body + b"QUIT\r\n"

        async def converse() -> bytes:
            peer = Peer("unix", 0, TRUSTED, False)
            wire = Memory(self.office.submission(peer=peer) if submitted else self.office.session())
            wire.send(text)
            heard = b""
            while block := await wire.receive():
                heard += block
            return heard

        replies = [line for line in asyncio.run(converse()).decode().splitlines() if line[3:4] == " "]
        assert replies[2].startswith("250"), replies
        return replies[3], replies[4].startswith("250")

    def taken_out(self) -> tuple[set[str], set[tuple[str, str, str]]]:
        """The mailboxes with new mail, and who waits in the queue from whom by which route; removed."""
        mailboxes = set()
        for file in self.office.mail.glob("[!.]*/*/new/*"):
            mailboxes.add(str(Address(file.parts[-3].replace("%20", " "), file.parts[-4])))
            file.unlink()
        queued = set()
        for entry in self.office.entries():
            for one in entry.recipients:
                address = one.recipient.address
                way = str(self.routes.route(entry.sender, address))
                queued.add((str(address), str(entry.sender or ""), way))
            self.office.spool.remove(entry.id)
        return mailboxes, queued


class Routes(Ways):
    """The routes of the queue, without what carries mail there."""

    def __init__(self, relays: Relays) -> None:
        self._relays = relays


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = Path("/dev/shm") if os.path.isdir("/dev/shm") else None
    root = tmp_path_factory.mktemp("site") if base is None else base / f"mailserver-explain-{os.getpid()}"
    root.mkdir(exist_ok=True)
    made = Site(root)
    yield made
    made.office.close()
    shutil.rmtree(root, ignore_errors=True)


@given(
    recipient=RECIPIENTS,
    sender=st.sampled_from(["", "ann@example.test", "real@catch.test", "eve@elsewhere.test"]),
    submitted=st.booleans(),
    size=st.sampled_from([0, 90, 2000, 5000]),
)
@example("everybody@example.test", "eve@elsewhere.test", False, 0)
@example("both@example.test", "eve@elsewhere.test", False, 0)
@example("loopann@example.test", "", False, 0)
@example("broken@example.test", "", False, 0)
@example("full@example.test", "", False, 5000)
@example("x@elsewhere.test", "ann@example.test", True, 0)
@example("x@other.test", "real@catch.test", True, 0)
@example("x@other.test", "bob@example.test", True, 0)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_explained_is_what_happens(site, monkeypatch, recipient, sender, submitted, size):
    monkeypatch.setattr(conversation, "ERROR_DELAY", 0.0)
    assume(not (submitted and sender == "eve@elsewhere.test"))  # not hers to send from
    site.office.now = time.time()
    try:
        explained = site.explained(recipient, sender, submitted, size)
    except Refused:
        assert site.sent(recipient, sender, submitted, size)[0].startswith("501")
        return
    heard, taken = site.sent(recipient, sender, submitted, size)
    assert explained.reply == ("" if heard.startswith("250") else heard)
    mailboxes, queued = site.taken_out()
    if taken:
        assert {one.address for one in explained.places if one.way == "mailbox"} == mailboxes
        leaves = [one for one in explained.places if one.way != "mailbox"]
        assert {(one.address, one.sender, one.way.rpartition(" ")[2]) for one in leaves} == queued
    assert explained.steps
    assert any(step.decides for step in explained.steps)


def test_a_bounce_to_a_rewritten_sender(site):
    rewritten = str(
        Srs(KEY).forward(Address("eve", "elsewhere.test"), "example.test", int(time.time()) // 86_400)
    )
    [place] = site.explained(rewritten, "", False, 0).places
    assert (place.address, place.way) == ("eve@elsewhere.test", "mail exchangers of elsewhere.test")
    assert site.explained(rewritten, "eve@elsewhere.test", False, 0).reply.startswith(
        "550 5.7.1 Only bounces"
    )
    assert site.explained(rewritten.replace("=", "=a", 1), "", False, 0).reply.startswith("550 5.1.1")


def rules(explained: Explanation) -> list[tuple[str, str, bool]]:
    return [(step.rule, step.subject, step.decides) for step in explained.steps]


def test_every_rule_in_order_and_which_decided(site):
    assert rules(site.explained("Ann+shop@EXAMPLE.test", "", False, 0)) == [
        ("domain", "ann+shop@example.test", False),
        ("user", "ann+shop@example.test", False),
        ("alias", "ann+shop@example.test", False),
        ("user", "ann@example.test", True),
        ("quota", "ann@example.test", False),
    ]
    assert rules(site.explained("nobody@catch.test", "", False, 0)) == [
        ("domain", "nobody@catch.test", False),
        ("user", "nobody@catch.test", False),
        ("alias", "nobody@catch.test", False),
        ("catch-all", "nobody@catch.test", True),
        ("domain", "all@catch.test", False),
        ("user", "all@catch.test", True),
        ("quota", "all@catch.test", False),
    ]
    assert rules(site.explained("off@example.test", "", False, 0))[-1] == (
        "enabled",
        "off@example.test",
        True,
    )
    assert rules(site.explained("full@example.test", "", False, 900))[-1] == (
        "quota",
        "full@example.test",
        True,
    )
    assert rules(site.explained("broken@example.test", "", False, 0))[-1][0] == "files"
    assert rules(site.explained("loop@example.test", "", False, 0))[-1] == (
        "circle",
        "loop@example.test",
        True,
    )
    assert rules(site.explained("x@other.test", "bob@example.test", True, 0)) == [
        ("domain", "x@other.test", False),
        ("relay", "x@other.test", True),
        ("relay of the sender", "bob@example.test", False),
        ("relay of the sender's domain", "example.test", False),
        ("relay of the recipient's domain", "other.test", True),
    ]


def test_a_postmaster_who_gets_nothing_is_not_said_to_be_missing(site):
    steps = {step.rule: step.found for step in site.explained("nobody@example.test", "", False, 0).steps}
    assert steps["catch-all"] == "the domain has none"
    assert steps["postmaster"] == "undeliverable_to_postmaster is off"


# ---- who sees what


@pytest.fixture
def there(memory_path):
    made = populated(memory_path)
    made.accounts.add_alias(Address("all", "a.test"), [Address("bob", "a.test"), Address("info", "b.test")])
    made.accounts.add_alias(Address("away", "a.test"), [Address("x", "far.test")])
    yield made
    made.close()


def test_other_domains_are_left_out_for_a_domain_admin(there):
    whole = there.perform(HELP_DESK, "explain", subject="all@a.test")
    assert [one.address for one in whole.places] == ["bob@a.test", "ann@b.test"]
    part = there.perform(ADMIN, "explain", subject="all@a.test")
    assert [one.address for one in part.places] == ["bob@a.test"]
    assert {one.subject.partition("@")[2] for one in part.steps} == {"a.test"}
    assert part.steps[2].leads_to == ("bob@a.test", "info@b.test")  # as `alias show` tells him
    away = there.perform(ADMIN, "explain", subject="away@a.test")
    assert (away.places, {one.subject.partition("@")[2] for one in away.steps}) == ((), {"a.test"})
    for subject in ("ann@b.test", "nobody@b.test", "x@nowhere.test"):
        with pytest.raises(Missing, match=r"^no domain "):
            there.perform(ADMIN, "explain", subject=subject)
    with pytest.raises(Missing):
        there.perform(ADMIN, "explain", subject="postmaster")


def test_before_the_first_start_there_is_no_key(there):
    explained = there.perform(OWNER, "explain", subject="away@a.test", sender="eve@else.test")
    assert explained.places[0].sender.endswith("=else.test=eve@a.test")
    with open(f"{there.config.maildirs}/.srs.key", "wb") as file:
        file.write(b"short")
    with pytest.raises(Refused, match="the key of forwarded mail's senders"):
        there.perform(OWNER, "explain", subject="away@a.test")


@pytest.mark.parametrize("subject", ["", "no such thing", "<ann@a.test>", "ann@a.test> SIZE=1", "@", "M/1"])
def test_what_is_neither_an_address_nor_an_id(there, subject):
    with pytest.raises(
        Refused, match="expected an address, as a client says it to RCPT, or the id of a message"
    ):
        there.perform(OWNER, "explain", subject=subject)


# ---- messages, from the log

LOG = """\
2023-11-14T22:13:20.000Z event=received id=M1 peer=192.0.2.1 sender=<ann@a.test> to=b@far.test stored=1
2023-11-14T22:13:20.100Z event=received id=M2 peer=192.0.2.1 helo="id=M1" sender=<eve@a.test>
2023-11-14T22:13:20.200Z event=queued id=M1 message=M1 sender=<ann@a.test> to=b@far.test recipients=1
2023-11-14T22:13:21.000Z event=delivery id=M1 to=b@far.test outcome=deferred reply="450 4.2.0 \\"later\\""
"""


def test_what_became_of_a_message(there):
    with open(there.config.log_file, "w") as file:
        file.write(LOG)
    steps = there.perform(AUDITOR, "explain", subject="M1").steps
    assert [(one.at[-5:], one.id, one.event) for one in steps] == [
        (".000Z", "M1", "received"),
        (".200Z", "M1", "queued"),
        (".000Z", "M1", "delivery"),
    ]
    assert steps[2].text == 'to b@far.test, outcome deferred, reply 450 4.2.0 "later"'
    lines = there.perform(AUDITOR, "trace", id="M1")
    assert [one.line for one in lines] == [LOG.splitlines()[number] for number in (0, 2, 3)]
    for words, key in (("explain", "subject"), ("trace", "id")):
        with pytest.raises(Refused, match="the log says nothing of M7"):
            there.perform(OWNER, words, **{key: "M7"})
    with pytest.raises(Forbidden):
        there.perform(HELP_DESK, "explain", subject="M1")


def test_a_log_that_is_not_there(there):
    with pytest.raises(OSError, match="No such file"):
        there.perform(OWNER, "trace", id="M1")
    file = there.directory / "mailserver.toml"
    file.write_text(file.read_text().replace("log_file", "#log_file"))
    there.administration.config = there.config
    with pytest.raises(Refused, match="the log goes to standard error"):
        there.perform(OWNER, "trace", id="M1")
