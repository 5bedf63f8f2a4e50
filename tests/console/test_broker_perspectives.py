"""What each role finds over Perspective Broker: all it may do, and no trace of what it may not."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from perspectives import OPERATORS, USER, Office, Raw, client
from serving import PASSWORD
from twisted.spread import pb

from mailserver.admin.operation import Scope
from mailserver.admin.roles import Operator, Role
from mailserver.admin.table import TABLE
from mailserver.console.pb.perspective import TOPICS, perspective
from mailserver.console.pb.view import View
from mailserver.mail.address import parse_mailbox

REFUSED = "mailserver.console.pb.values.Refused"
TYPED = {"phrase", "asks", "complete", "help"}
ROLES = [*OPERATORS, USER]


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    yield office
    office.pool.close()


def operator(name):
    if name == USER:
        return Operator(USER, Role.USER, frozenset(), parse_mailbox(USER), kept=True)
    role, domains = OPERATORS[name]
    return Operator(name, Role(role), frozenset(domains) or None, kept=True)


def may(who, operation):
    """The rule, once more in other words."""
    if who.role is Role.OWNER:
        return True
    whole = who.domains is None and who.role is not Role.USER
    return who.role in operation.roles and (whole or operation.scope is not Scope.SERVER)


def name_of(words):
    """Topic and method of an operation."""
    first, _, rest = words.partition(" ")
    if rest == "--watch":
        return None, f"watch_{first}"
    if not rest:
        return None, first
    verb = rest.replace(" --watch", "")
    verb = (
        {"list": "watch"}.get(verb, f"watch_{verb}") if rest.endswith("--watch") else verb.replace(" ", "_")
    )
    return TOPICS.get(first, first), verb


@pytest.mark.parametrize("name", ROLES)
def test_what_a_role_may_do_is_there_and_nothing_else(name, office):
    """Of every operation in the table; by the names that a client calls."""
    who = operator(name)
    server = perspective(View(office.administration, who, None))

    def reaches(topic, verb):
        try:
            reference = server if topic is None else asyncio.run(server.method(topic)())
            reference.method(verb)
        except pb.NoSuchMethod:
            return False
        return True

    found = {words: reaches(*name_of(words)) for words in TABLE}
    assert found == {words: may(who, operation) for words, operation in TABLE.items()}
    topics = {name_of(words) for words, operation in TABLE.items() if may(who, operation)}
    singles = {verb for topic, verb in topics if topic is None}
    assert set(server._methods) == TYPED | singles | {topic for topic, _ in topics} - {None}


@pytest.mark.parametrize("name", ["dora", "hedy", "audie", USER])
def test_what_a_role_may_not_is_no_method_for_a_client(name, office, tmp_path):
    """Over the wire, by somebody who knows all names: topics, verbs, and numbers that he guesses."""
    who = operator(name)

    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            raw = await Raw.connect(f"{tmp_path}/pb.sock")
            [_, [_, server]] = await raw.call(b"root", b"authenticate", name, PASSWORD)
            for words, operation in TABLE.items():
                if may(who, operation):
                    continue
                topic, verb = name_of(words)
                target = server
                if topic is not None:
                    kind, answer = await raw.call(server, topic.encode())
                    if kind == b"error":
                        assert b"NoSuchMethod" in str(answer).encode()
                        continue
                    target = answer[1]
                kind, answer = await raw.call(target, verb.encode())
                assert kind == b"error" and "NoSuchMethod" in str(answer), words
            for guess in (0, 100, -1, b"mailserver", b""):
                kind, answer = await raw.call(guess, b"phrase", "domain list")
                assert kind == b"error" and "no such object" in str(answer)
            raw.close()

    asyncio.run(conversation())


def test_every_call_that_is_none_leaves_a_line(office, tmp_path, events):
    """One each: by phrases, by methods that are not there for him, and with what a method does not take."""
    tried = [
        ("server", b"phrase", ["stop"], "stop", "forbidden"),
        ("server", b"phrase", ["operator list"], "operator list", "forbidden"),
        ("server", b"phrase", ["hunter2 frobnicate"], "unknown", "refused"),
        ("server", b"phrase", ["user passwd ann@example.test hunter2"], "user passwd", "refused"),
        ("server", b"phrase", ["user passwd ann@example.test", "hunter2"], "user passwd", "refused"),
        ("server", b"phrase", ["queue list --watch"], "queue list --watch", "refused"),
        ("server", b"phrase", [7], "unknown", "refused"),
        ("server", b"phrase", [], "unknown", "refused"),
        ("server", b"asks", ["stop"], "stop", "forbidden"),
        ("server", b"stop", [], "stop", "forbidden"),
        ("server", b"operators", [], "unknown", "refused"),
        ("server", b"hunter2", [], "unknown", "refused"),
        ("domains", b"add", ["new.test"], "domain add", "forbidden"),
        ("domains", b"list", ["hunter2"], "domain list", "refused"),
        ("domains", b"domain", [], "unknown", "refused"),
        ("mine", b"remove", [], "domain remove", "forbidden"),
        ("nothing", b"stop", [], "unknown", "refused"),
    ]

    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            raw = await Raw.connect(f"{tmp_path}/pb.sock")
            await raw.call(b"root", b"stop")  # nobody has logged in
            there = {"nothing": 10_000}
            there["server"] = (await raw.call(b"root", b"authenticate", "dora", PASSWORD))[1][1]
            there["domains"] = (await raw.call(there["server"], b"domains"))[1][1]
            there["mine"] = (await raw.call(there["domains"], b"domain", "example.test"))[1][1]
            events.clear()
            for target, name, args, *_ in tried:
                kind, _ = await raw.call(there[target], name, *args)
                assert kind == b"error", (name, args)
            raw.close()

    asyncio.run(conversation())
    audit = [fields for name, fields in events if name == "audit"]
    assert [[one["operation"], one["outcome"]] for one in audit] == [list(one[-2:]) for one in tried]
    assert {(one["operator"], one["front"]) for one in audit} == {("dora", "pb")}
    assert "hunter2" not in str(events)


def test_a_domain_of_others_is_like_one_that_is_not_there(office, tmp_path):
    body = f"""
me = await root.callRemote("authenticate", "dora", {PASSWORD!r})
domains, users = await me.callRemote("domains"), await me.callRemote("users")
say([one["domain"] for one in await domains.callRemote("list")])
mine = await domains.callRemote("domain", "example.test")
say([one["address"] for one in await mine.callRemote("user_list")])
for name in ("other.test", "nowhere.test"):
    await wrong(domains.callRemote("domain", name))
    await wrong(domains.callRemote("show", name))
    await wrong(users.callRemote("user", "ann@" + name))
    await wrong(users.callRemote("add", "ann@" + name, "a good password"))
    await wrong(me.callRemote("phrase", "domain show " + name))
"""

    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            return await client(f"unix:{tmp_path}/pb.sock", body)

    seen, listed, *rest = asyncio.run(conversation())
    assert (seen, listed) == (["example.test"], [USER])
    others, nowhere = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    assert others == [[REFUSED, "no domain other.test"]] * 5
    assert [[kind, text.replace("nowhere", "other")] for kind, text in nowhere] == others


def test_a_user_finds_himself(office, tmp_path):
    body = f"""
me = await root.callRemote("authenticate", {USER!r}, {PASSWORD!r})
mailboxes = await me.callRemote("mailboxes")
say((await mailboxes.callRemote("show"))["address"])
trash = await me.callRemote("trash")
say(await trash.callRemote("list"))
await wrong(mailboxes.callRemote("show", "bob@example.test"))
await wrong(mailboxes.callRemote("show", address="bob@example.test"))
await wrong(me.callRemote("users"))
"""

    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            return await client(f"unix:{tmp_path}/pb.sock", body)

    assert asyncio.run(conversation()) == [
        USER,
        [],
        [REFUSED, "mailbox show takes nothing in its place"],
        [REFUSED, f"{USER} may do this for himself alone"],
        ["twisted.spread.flavors.NoSuchMethod", "no such method"],
    ]


def test_who_is_no_operator_any_more_does_nothing_more(office, tmp_path):
    async def conversation():
        with office.listening(f"unix:{tmp_path}/pb.sock"):
            raw = await Raw.connect(f"{tmp_path}/pb.sock")
            [_, [_, server]] = await raw.call(b"root", b"authenticate", "dora", PASSWORD)
            [_, [_, domains]] = await raw.call(server, b"domains")
            assert (await raw.call(domains, b"list"))[0] == b"answer"
            office.operators.remove("dora")
            kind, answer = await raw.call(domains, b"list")
            assert kind == b"error" and "dora is no operator any more" in str(answer)
            raw.close()

    asyncio.run(conversation())
