"""Who may do what, and what is not there for whom: every operation, in every role, here and elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest
from administered import ADMIN, ANN, AUDITOR, EVERYBODY, HELP_DESK, OWNER, PASSWORD, Administered, populated

from mailserver import maillog
from mailserver.admin.refused import Forbidden, Refused
from mailserver.admin.roles import NOWHERE, Operator, Role
from mailserver.admin.table import TABLE
from mailserver.directory import Missing
from mailserver.mail.address import Address

O, D, H, A, U = (one.role for one in EVERYBODY)  # noqa: E741

RIGHTS = {
    "alias add": {O, D},
    "alias list": {O, D, H, A},
    "alias remove": {O, D},
    "alias show": {O, D, H, A},
    "audit": {O, A},
    "config confirm": {O},
    "config diff": {O, A},
    "config export": {O, A},
    "config get": {O, A},
    "config history": {O, A},
    "config rollback": {O},
    "config set": {O},
    "config unset": {O},
    "counters": {O, A},
    "domain add": {O},
    "domain list": {O, D, H, A},
    "domain remove": {O},
    "domain set": {O, D},
    "domain show": {O, D, H, A},
    "drain": {O},
    "events": {O, A},
    "explain": {O, D, H, A},
    "listener add": {O},
    "listener list": {O, A},
    "listener pause": {O},
    "listener remove": {O},
    "listener resume": {O},
    "mailbox show": {O, D, H, A, U},
    "operator add": {O},
    "operator list": {O, A},
    "operator passwd": {O},
    "operator remove": {O},
    "operator show": {O, A},
    "passwd": {O, D, H, A, U},
    "queue drop": {O, D},
    "queue hold": {O, D},
    "queue list": {O, D, H, A},
    "queue list --watch": {O, D, H, A},
    "queue release": {O, D},
    "queue retry": {O, D},
    "queue show": {O, D, H, A},
    "queue destinations": {O, H, A},
    "relay add": {O},
    "relay list": {O, A},
    "relay remove": {O},
    "relay test": {O},
    "reload": {O},
    "session close": {O},
    "session list": {O, A},
    "status": {O, A},
    "status --watch": {O, A},
    "stop": {O},
    "trace": {O, A},
    "trash list": {O, D, H, A, U},
    "trash purge": {O, D, U},
    "trash restore": {O, D, H, U},
    "user add": {O, D},
    "user list": {O, D, H, A},
    "user passwd": {O, D, H},
    "user remove": {O, D},
    "user set": {O, D},
    "user show": {O, D, H, A},
    "whoami": {O, D, H, A, U},
}
"""Written down by hand: a change of anybody's rights is a change of this table."""

DESTROYS = {
    "domain remove",
    "drain",
    "operator remove",
    "queue drop",
    "stop",
    "trash purge",
    "user remove",
}

GOOD: dict[str, dict[str, object]] = {
    "alias add": {"address": "new@a.test", "targets": ["ann@a.test"]},
    "alias remove": {"address": "info@a.test"},
    "alias show": {"address": "info@a.test"},
    "config rollback": {"number": 1},
    "config set": {"key": "limits.recipients", "value": "200"},
    "config unset": {"key": "hostname"},
    "domain add": {"domain": "c.test"},
    "domain remove": {"domain": "a.test", "with_users": True},
    "domain set": {"domain": "a.test", "quota": "1G"},
    "domain show": {"domain": "a.test"},
    "explain": {"subject": "ann@a.test"},
    "listener add": {"protocol": "pop3", "endpoint": "tcp:127.0.0.1:2110"},
    "listener pause": {"endpoint": "tcp:127.0.0.1:2525"},
    "listener remove": {"endpoint": "tcp:127.0.0.1:2525"},
    "listener resume": {"endpoint": "tcp:127.0.0.1:2525"},
    "mailbox show": {"address": "ann@a.test"},
    "operator add": {"name": "new", "role": "auditor", "password": PASSWORD},
    "operator passwd": {"name": "carol", "password": PASSWORD},
    "operator remove": {"name": "carol"},
    "operator show": {"name": "carol"},
    "passwd": {"old": PASSWORD, "password": PASSWORD},
    "queue drop": {"ids": ["M1"]},
    "queue hold": {"ids": ["M1"]},
    "queue release": {"ids": ["M1"]},
    "queue retry": {"ids": ["M1"]},
    "queue show": {"id": "M1"},
    "queue destinations": {},
    "relay add": {"name": "more", "hosts": ["127.0.0.1:10"]},
    "relay remove": {"name": "out"},
    "relay test": {"name": "out"},
    "session close": {"id": "1-1"},
    "trace": {"id": "M1"},
    "trash list": {"address": "ann@a.test"},
    "trash purge": {"address": "ann@a.test", "all": True},
    "trash restore": {"address": "ann@a.test", "all": True},
    "user add": {"address": "new@a.test", "password": PASSWORD},
    "user passwd": {"address": "ann@a.test", "password": PASSWORD},
    "user remove": {"address": "ann@a.test"},
    "user set": {"address": "ann@a.test", "enabled": "yes"},
    "user show": {"address": "ann@a.test"},
}
"""What each operation makes sense with."""


@pytest.fixture
def there(memory_path):
    made = populated(memory_path)
    yield made
    made.close()


@pytest.fixture
def audited(monkeypatch):
    seen = []

    def event(name, /, **fields):
        if name == "audit":
            seen.append(fields)

    monkeypatch.setattr(maillog, "event", event)
    return seen


def ask(there: Administered, operator: Operator, words: str, given: dict[str, object]) -> str:
    """How it ends: done, forbidden, or refused for another reason."""
    try:
        if TABLE[words].stream:
            there.watch(operator, words, **given)
        else:
            there.perform(operator, words, **given)
    except Forbidden:
        return "forbidden"
    except (Refused, LookupError, ValueError):
        return "refused"
    return "done"


def test_the_table_of_rights():
    assert {words: {role for role in Role if TABLE[words].allows(role)} for words in TABLE} == RIGHTS
    assert {words for words, operation in TABLE.items() if operation.destroys} == DESTROYS


def test_who_only_reads_changes_nothing():
    assert [words for words, one in TABLE.items() if one.changes and one.allows(A)] == ["passwd"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """What every walk begins with."""
    root = tmp_path_factory.mktemp("model")
    there = populated(root)
    there.operators.add("carol", "auditor", PASSWORD)
    (root / "mail.log").write_text("T event=received id=M1\n")
    there.close()
    return root


@pytest.mark.parametrize("words", sorted(RIGHTS))
def test_every_operation_in_every_role(model, memory_path, words, audited):
    for operator in EVERYBODY:
        root = memory_path / operator.role.value
        shutil.copytree(model, root)
        there = Administered(root)
        try:
            outcome = ask(there, operator, words, GOOD.get(words, {}))
        finally:
            there.close()
        assert (outcome == "forbidden") == (operator.role not in RIGHTS[words]), operator.role
        if outcome == "done":
            assert words not in ("config confirm", "config unset")  # nothing waits; hostname has no default
        elif operator.role in RIGHTS[words]:
            assert words in ("config confirm", "config unset", "config rollback", "passwd")
    assert [line["operator"] for line in audited] == [operator.name for operator in EVERYBODY]


NOT_THERE = {
    words: {
        key: [str(one).replace("a.test", "b.test") for one in value]
        if isinstance(value, list)
        else value.replace("a.test", "b.test")
        if isinstance(value, str)
        else value
        for key, value in given.items()
    }
    for words, given in GOOD.items()
    if "a.test" in str(given)
}


@pytest.mark.parametrize("words", sorted(set(NOT_THERE) - {"domain add", "domain remove"}))
def test_another_domain_is_not_there_for_a_domain_admin(there, words):
    """The same words as for a domain that nobody has."""
    nobody = {key: str(value).replace("b.test", "nobody.test") for key, value in NOT_THERE[words].items()}
    nobody |= {key: value for key, value in NOT_THERE[words].items() if not isinstance(value, str)}
    answers = []
    for given in (NOT_THERE[words], nobody):
        with pytest.raises(Missing) as refusal:
            there.perform(ADMIN, words, **given)
        answers.append(str(refusal.value).replace("nobody.test", "b.test"))
    assert answers[0] == answers[1] == "no domain b.test"


@pytest.mark.parametrize("words", ["mailbox show", "trash list", "trash restore", "trash purge"])
def test_users_do_things_for_themselves_alone(there, words):
    given = {key: value for key, value in GOOD[words].items() if key != "address"}
    for address in ("bob@a.test", "ann@b.test", "nobody@a.test"):
        with pytest.raises(Forbidden):
            there.perform(ANN, words, **given, address=address)
    assert there.perform(ANN, words, **given, address="ANN@a.test") is not None
    assert ask(there, ANN, words, given) == "done"  # who needs not say who he is


def test_lists_show_a_domain_admin_his_own(there):
    assert [one.domain for one in there.perform(ADMIN, "domain list")] == ["a.test"]
    assert {one.address for one in there.perform(ADMIN, "user list")} == {"ann@a.test", "bob@a.test"}
    assert [one.address for one in there.perform(ADMIN, "alias list")] == ["info@a.test"]
    gone = Operator("dan", Role.DOMAIN_ADMIN, frozenset({"a.test", "gone.test"}))
    assert [one.domain for one in there.perform(gone, "domain list")] == ["a.test"]
    nobody = Operator("dan", Role.DOMAIN_ADMIN, NOWHERE)
    assert there.perform(nobody, "user list") == []
    with pytest.raises(Missing, match=r"no domain b\.test"):
        there.perform(ADMIN, "user list", domain="b.test")


def test_a_narrowed_help_desk_and_auditor(there):
    helper = Operator("hal", Role.HELP_DESK, frozenset({"b.test"}))
    assert there.perform(helper, "user passwd", address="ann@b.test", password="another one")
    with pytest.raises(Missing):
        there.perform(helper, "user passwd", address="ann@a.test", password="another one")
    auditor = Operator("aude", Role.AUDITOR, frozenset({"b.test"}))
    assert [one.domain for one in there.perform(auditor, "domain list")] == ["b.test"]
    for words in ("config get", "status", "audit", "session list", "operator list", "relay list"):
        with pytest.raises(Forbidden, match=f"^aude may not {words}$"):
            there.perform(auditor, words)
    with pytest.raises(Forbidden):
        there.perform(auditor, "explain", subject="M1")


# ---- the queue


def test_the_queue_as_a_domain_admin_sees_it(there):
    entries = {one.id: one for one in there.perform(ADMIN, "queue list")}
    assert set(entries) == {"M1", "M3"}
    assert entries["M1"].recipients == ("x@far.test",)
    assert entries["M3"].recipients == ("bob@a.test",)
    shown = there.perform(ADMIN, "queue show", id="M3")
    assert ([one.address for one in shown.recipients], shown.user) == (["bob@a.test"], "")
    assert there.perform(ADMIN, "queue show", id="M1").user == "ann@a.test"
    for words in ("queue show", "queue hold"):
        for name in ("M2", "M4", "M7"):
            with pytest.raises(Missing, match=f"^no message {name} in the queue$"):
                there.perform(ADMIN, words, **({"id": name} if words == "queue show" else {"ids": [name]}))
    [first] = there.watch(ADMIN, "queue list --watch")
    assert {one.id for one in first} == {"M1", "M3"}


def test_a_domain_admin_commands_what_comes_from_his_domains(there):
    with pytest.raises(Forbidden, match="M3 is not of your domains"):
        there.perform(ADMIN, "queue drop", ids=["M1", "M3"])
    assert len(there.perform(OWNER, "queue list")) == 4  # nothing was done, not even what he may
    assert there.perform(ADMIN, "queue hold", all=True).done == 1
    assert [one.id for one in there.perform(OWNER, "queue list") if one.state == "held"] == ["M1"]
    assert there.perform(OWNER, "queue drop", all=True).done == 4


def test_whose_a_message_is_the_sender_does_not_say(there):
    """Anybody writes any sender; and where an alias leads is the business of the alias' domain."""
    there.queue("M5", "ann@a.test", "secret@far.test", user="", forwarded_by="b.test")
    there.queue("M6", "ann@a.test", "secret@far.test", forwarded_by="b.test")
    there.queue("M7", "ann@a.test", "secret@far.test", user="")
    there.queue("M8", "ann@a.test", "secret@far.test", "bob@a.test", user="", forwarded_by="b.test")
    for name in ("M5", "M6", "M7"):
        assert name not in {one.id for one in there.perform(ADMIN, "queue list")}
        for words, said in (("queue show", {"id": name}), ("queue drop", {"ids": [name]})):
            with pytest.raises(Missing, match=f"^no message {name} in the queue$"):
                there.perform(ADMIN, words, **said)
    with pytest.raises(Forbidden):
        there.perform(ADMIN, "queue drop", ids=["M8"])
    seen = there.perform(ADMIN, "queue show", id="M8")
    assert ([one.address for one in seen.recipients], seen.domain) == (["bob@a.test"], "")
    other = Operator("dora", Role.DOMAIN_ADMIN, frozenset({"b.test"}))
    assert [one.id for one in there.perform(other, "queue list")] == ["M2", "M3", "M5", "M6", "M8"]
    shown = there.perform(other, "queue show", id="M6")
    assert (shown.domain, shown.user, shown.recipients[0].address) == ("b.test", "", "secret@far.test")
    assert there.perform(ADMIN, "queue drop", all=True).done == 1
    assert there.perform(other, "queue drop", all=True).done == 5
    assert [one.id for one in there.perform(OWNER, "queue list")] == ["M4", "M7"]


def test_the_help_desk_sees_the_whole_queue_in_pages(there):
    assert [one.id for one in there.perform(HELP_DESK, "queue list", most=2)] == ["M1", "M2"]
    assert [one.id for one in there.perform(HELP_DESK, "queue list", after="M2")] == ["M3", "M4"]


# ---- what is of the machine


def test_paths_are_for_those_whose_business_is_the_server(there):
    path = f"{there.config.maildirs}/a.test/ann"
    assert there.perform(OWNER, "mailbox show", address="ann@a.test").mailbox == path
    assert there.perform(AUDITOR, "user show", address="ann@a.test").mailbox == path
    for operator in (ADMIN, ANN):
        assert there.perform(operator, "mailbox show", address="ann@a.test").mailbox == "ann"
    assert there.perform(ADMIN, "domain show", domain="a.test").mailboxes == "a.test"
    removed = there.perform(ADMIN, "user remove", address="ann@a.test")
    assert "/" not in removed.kept_at
    added = there.perform(ADMIN, "user add", address="ann@a.test", password=PASSWORD)
    assert (added.mailbox, len(added.set_aside)) == ("ann", 1)
    assert "/" not in added.set_aside[0]


def test_a_file_that_cannot_be_read_is_named_to_those_alone(there):
    file = there.directory / "domains/a.test/users/ann"
    file.write_text("$hash\nquota = nonsense\n")
    with pytest.raises(Exception, match=r"users/ann: line 2"):
        there.perform(OWNER, "user show", address="ann@a.test")
    with pytest.raises(Refused, match=r"^a file of this server cannot be read; its log says which$"):
        there.perform(ADMIN, "user show", address="ann@a.test")


# ---- at once


def test_a_removed_or_changed_operator_is_one_no_more_at_once(there):
    there.operators.add("dan", "domain-admin", PASSWORD, ["a.test"])
    dan = asyncio.run(there.operators.authenticate("dan", PASSWORD, "192.0.2.1"))
    assert [one.domain for one in there.perform(dan, "domain list")] == ["a.test"]
    file = there.directory / "operators/dan"
    file.write_text(file.read_text().replace("a.test", "b.test"))
    assert [one.domain for one in there.perform(dan, "domain list")] == ["b.test"]
    file.write_text(file.read_text().replace("domain-admin", "auditor"))
    with pytest.raises(Forbidden):
        there.perform(dan, "user passwd", address="ann@b.test", password=PASSWORD)
    there.perform(OWNER, "operator remove", name="dan")
    with pytest.raises(Forbidden, match="dan is no operator any more"):
        there.perform(dan, "whoami")


def test_a_stream_ends_with_the_rights_of_who_reads_it(there):
    there.operators.add("eve", "auditor", PASSWORD)
    eve = asyncio.run(there.operators.authenticate("eve", PASSWORD, "192.0.2.1"))

    async def watch():
        values = there.administration.watch(eve, "test", "queue list --watch", {})
        await anext(values)
        there.operators.remove("eve")
        there.queue("M5", "ann@a.test", "x@far.test")
        with pytest.raises(Forbidden, match="eve has other rights now"):
            await anext(values)

    asyncio.run(watch())


def test_a_disabled_or_removed_user_is_one_no_more_at_once(there):
    ann = asyncio.run(there.operators.authenticate("Ann@a.test", PASSWORD, "192.0.2.1"))
    assert (ann.name, ann.role, ann.address) == ("ann@a.test", Role.USER, Address("ann", "a.test"))
    assert there.perform(ann, "mailbox show").messages == 0
    there.perform(ADMIN, "user set", address="ann@a.test", enabled=False)
    with pytest.raises(Forbidden):
        there.perform(ann, "mailbox show")
    there.perform(ADMIN, "user set", address="ann@a.test", enabled=True)
    there.perform(ann, "whoami")
    there.perform(ADMIN, "user remove", address="ann@a.test")
    with pytest.raises(Forbidden):
        there.perform(ann, "whoami")
    assert not os.path.exists(there.directory / "domains/a.test/users/ann")
