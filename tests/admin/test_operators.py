"""Operators: their files, who logs in, whom an account of the machine is, and guesses."""

from __future__ import annotations

import asyncio
import functools
import os
import stat

import pytest
from administered import OWNER, PASSWORD, populated
from msgspec.structs import replace

from mailserver import maillog
from mailserver.admin import operators
from mailserver.admin.operator_check import problems
from mailserver.admin.operator_files import OperatorFiles
from mailserver.admin.operators import Operators
from mailserver.admin.refused import Refused
from mailserver.admin.roles import NOWHERE, Operator, Role
from mailserver.config.model import Passwords
from mailserver.config.values import Duration
from mailserver.directory import Exists, Malformed, Missing, Unavailable, passwords
from mailserver.mta.authentication import Authenticator
from mailserver.pool import Busy

SHA = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="  # of "test"


@pytest.fixture
def there(memory_path):
    made = populated(memory_path)
    yield made
    made.close()


@pytest.fixture
def logins(monkeypatch):
    seen = []

    def event(name, /, **fields):
        if name == "login":
            seen.append((fields["outcome"], fields["user"], fields["protocol"]))

    monkeypatch.setattr(maillog, "event", event)
    return seen


def write(there, name, text):
    os.makedirs(there.directory / "operators", exist_ok=True)
    (there.directory / "operators" / name).write_text(text)


def login(there, name, password="test", source="192.0.2.1"):
    return asyncio.run(there.operators.authenticate(name, password, source))


# ---- files


def test_an_operator_is_added_listed_shown_and_removed(there):
    added = there.perform(
        OWNER,
        "operator add",
        name="dan",
        role="domain-admin",
        password=PASSWORD,
        domains=["b.test", "A.test"],
        account="nobody",
    )
    assert (added.name, added.role, added.domains) == ("dan", "domain-admin", ("a.test", "b.test"))
    assert there.perform(OWNER, "operator list") == [added]
    file = there.directory / "operators/dan"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert PASSWORD not in file.read_text()
    with pytest.raises(Exists):
        there.operators.add("dan", "auditor", PASSWORD)
    assert there.perform(OWNER, "operator remove", name="dan") == added
    for words in ("operator show", "operator remove", "operator passwd"):
        given = {"password": PASSWORD} if words == "operator passwd" else {}
        with pytest.raises(Missing, match="no operator dan"):
            there.perform(OWNER, words, name="dan", **given)
    assert there.perform(OWNER, "operator list") == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "Dan"}, "expected a name"),
        ({"name": "../dan"}, "expected a name"),
        ({"name": ".dan"}, "expected a name"),
        ({"name": "dan/x"}, "expected a name"),
        ({"name": "d" * 33}, "expected a name"),
        ({"role": "king"}, "expected owner or domain-admin or help-desk or auditor"),
        ({"role": "user"}, "expected owner or"),
        ({"role": "domain-admin"}, "a domain-admin needs --domains"),
        ({"role": "owner", "domains": ["a.test"]}, "an owner has all of them"),
        ({"password": ""}, "expected a password"),
        ({"account": "no such account"}, "expected the name or number"),
        ({"account": "x\nrole = owner"}, "expected"),
    ],
)
def test_operators_that_make_no_sense(there, given, problem):
    with pytest.raises((Refused, Malformed), match=problem):
        there.perform(
            OWNER, "operator add", **{"name": "dan", "role": "auditor", "password": PASSWORD, **given}
        )
    assert there.perform(OWNER, "operator list") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{SHA}\n",
        f"{SHA}\nrole = king\n",
        f"{SHA}\nrole = auditor\nrole = owner\n",
        f"{SHA}\nrole = owner\ndomains = a.test\n",
        f"{SHA}\nrole = domain-admin\n",
        f"{SHA}\nrole = domain-admin\ndomains =\n",
        f"{SHA}\nrole = auditor\ndomains = a b\x00\n",
        f"{SHA}\nrole = auditor\nquota = 1G\n",
        f"role = owner\n{SHA}\n",
    ],
)
def test_a_malformed_file_is_nobody(there, text):
    write(there, "dan", text)
    assert login(there, "dan") is None
    with pytest.raises(Unavailable):
        there.perform(OWNER, "operator show", name="dan")
    assert there.operators.current(Operator("dan", Role.AUDITOR, kept=True)) is None
    write(there, "eve", f"{SHA}\n# by hand\nrole = auditor\n")
    assert [one.name for one in there.perform(OWNER, "operator list")] == ["eve"]


# ---- logging in


def test_who_logs_in(there, logins):
    write(there, "dan", f"{SHA}\n# by hand\nrole = domain-admin\ndomains = a.test, b.test\n")
    dan = login(there, "dan")
    assert (dan.name, dan.role, dan.domains) == ("dan", Role.DOMAIN_ADMIN, {"a.test", "b.test"})
    ann = login(there, "ANN@a.test", PASSWORD)
    assert (ann.name, ann.role, ann.domains) == ("ann@a.test", Role.USER, NOWHERE)
    # The old scheme was renewed, and nothing else changed.
    first, *rest = (there.directory / "operators/dan").read_text().splitlines()
    assert passwords.verify("test", first).ok
    assert first.startswith("$argon2id$")
    assert rest == ["# by hand", "role = domain-admin", "domains = a.test, b.test"]
    assert logins == [("ok", "dan", "console"), ("ok", "ann@a.test", "console")]


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("dan", "Test"),
        ("dan", ""),
        ("dan", "x" * 10_000),
        ("dan", "te\0st"),
        ("Dan", "test"),
        ("", "test"),
        ("nobody", "test"),
        ("../operators/dan", "test"),
        ("dan@a.test", "test"),
        ("ann", PASSWORD),
        ("ann@nobody.test", PASSWORD),
        ("off", "test"),
        ("x" * 100_000, "test"),
        ("dan\udc80", "test"),
    ],
)
def test_who_does_not_and_that_it_costs_one_hash(there, monkeypatch, name, password):
    write(there, "dan", f"{SHA}\nrole = auditor\n")
    write(there, "off", f"{SHA}\nrole = auditor\nenabled = no\n")
    hashed = []

    def verify(given, stored):
        hashed.append(stored)
        return passwords.Verdict(given == "test" and stored == SHA, False)

    monkeypatch.setattr(passwords, "verify", verify)
    assert login(there, name, password) is None
    assert len(hashed) == (passwords.is_possible(password))


def test_guesses_are_slowed_by_where_they_come_from(there, monkeypatch, logins):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    slow = functools.partial(Authenticator, clock=lambda: 1000.0, sleep=sleep)
    monkeypatch.setattr(operators, "Authenticator", slow)
    monkeypatch.setattr(passwords, "verify", lambda *_: passwords.Verdict(False, False))
    guarded = Operators(there.config, there.pool)

    async def guess():
        for _ in range(12):
            assert await guarded.authenticate("dan", "guess", "192.0.2.1") is None

    with pytest.raises(Busy):
        asyncio.run(guess())
    assert slept
    assert slept == sorted(slept)
    outcomes = [outcome for outcome, _, _ in logins]
    assert outcomes[:4] == ["failed"] * 4
    assert outcomes[-1] == "delayed"  # not even looked at
    assert asyncio.run(guarded.authenticate("dan", "guess", "192.0.2.2")) is None
    assert logins[-1][0] == "failed"  # elsewhere nobody waits for them
    guarded.follow(replace(there.config, passwords=Passwords(failure_delay=Duration("1ms"))))
    with pytest.raises(Busy):
        asyncio.run(guarded.authenticate("dan", "guess", "192.0.2.1"))
    assert logins[-1][0] == "delayed"  # another configuration forgets nothing


def test_a_new_password_counts_at_once(there):
    there.operators.add("carol", "help-desk", PASSWORD)
    carol = login(there, "carol", PASSWORD)
    there.perform(carol, "passwd", old=PASSWORD, password="the next one")
    assert login(there, "carol", PASSWORD) is None
    assert login(there, "carol", "the next one").role is Role.HELP_DESK
    there.perform(OWNER, "operator passwd", name="carol", password=PASSWORD)
    assert login(there, "carol", PASSWORD) is not None
    ann = login(there, "ann@a.test", PASSWORD)
    there.perform(ann, "passwd", old=PASSWORD, password="the next one")
    assert login(there, "ann@a.test", PASSWORD) is None
    assert login(there, "ann@a.test", "the next one") is not None


def test_an_impossible_password_changes_nothing(there):
    there.operators.add("carol", "help-desk", PASSWORD)
    carol = login(there, "carol", PASSWORD)
    for password in ("", "x" * 1025, "a\nb"):
        with pytest.raises(Refused, match="expected a password"):
            there.perform(carol, "passwd", old=PASSWORD, password=password)
    assert login(there, "carol", PASSWORD) is not None


# ---- accounts of the machine


def test_whom_an_account_is(there):
    assert (there.operators.of_uid(0).name, there.operators.of_uid(0).role) == ("root", Role.OWNER)
    assert there.operators.of_uid(os.geteuid()).role is Role.OWNER
    assert there.operators.of_uid(54321) is None
    write(there, "web", f"{SHA}\nrole = help-desk\ndomains = a.test\naccount = 54321\n")
    web = there.operators.of_uid(54321)
    assert (web.name, web.role, web.domains) == ("web", Role.HELP_DESK, {"a.test"})
    assert there.operators.of_uid(54322) is None
    write(there, "other", f"{SHA}\nrole = owner\naccount = no-such-account\n")
    assert there.operators.of_uid(54321) == web
    write(there, "broken", f"{SHA}\naccount = 54321\n")
    assert there.operators.of_uid(54321) == web
    write(there, "more", f"{SHA}\nrole = owner\naccount = 54321\n")
    assert there.operators.of_uid(54321) is None  # of two nobody knows which
    write(there, "more", f"{SHA}\nrole = owner\naccount = 54321\nenabled = no\n")
    assert there.operators.of_uid(54321) == web


def test_an_account_is_given_once(there):
    there.operators.add("web", "auditor", PASSWORD, account="54321")
    with pytest.raises(Exists, match="account 54321 is operator web already"):
        there.operators.add("more", "auditor", PASSWORD, account="54321")
    there.operators.add("more", "auditor", PASSWORD, account="no-such-account")


def test_who_came_by_an_account_goes_with_it(there):
    write(there, "web", f"{SHA}\nrole = auditor\naccount = 54321\n")
    web = there.operators.of_uid(54321)
    assert there.perform(web, "whoami").name == "web"
    write(there, "web", f"{SHA}\nrole = auditor\naccount = 54322\n")
    with pytest.raises(Refused, match="web is no operator any more"):
        there.perform(web, "whoami")


def test_operators_that_cannot_be_listed_are_nobody(there):
    (there.directory / "operators").write_text("")
    assert there.operators.of_uid(54321) is None
    assert there.operators.of_uid(0) is not None


def test_what_check_says_of_operators(there):
    files = OperatorFiles(str(there.directory / "operators"))
    assert list(problems(files)) == []
    write(there, "good", f"{SHA}\nrole = auditor\naccount = 54321\n")
    (there.directory / "operators" / "good").chmod(0o600)
    assert list(problems(files)) == []
    (there.directory / "operators").chmod(0o755)
    write(there, "Bad", "")
    write(there, "clear", "{PLAIN}x\nrole = auditor\n")
    write(there, "malformed", f"{SHA}\n")
    write(there, "open", f"{SHA}\nrole = auditor\naccount = no-such-account\n")
    write(there, "twin", f"{SHA}\nrole = auditor\naccount = 54321\n")
    for name in ("clear", "twin"):
        (there.directory / "operators" / name).chmod(0o600)
    assert [str(one).removeprefix(f"{there.directory}/operators/") for one in problems(files)] == [
        "Bad: the file's name is no operator's; it is not used",
        "clear: line 1: clear passwords are not accepted; store a hash",
        "malformed: expected a line such as role = auditor",
        "open: a password hash that every user of this machine can read; expected mode 600",
        "open: account: no account no-such-account on this machine",
        "twin: account: 54321 is operator good's already, so neither is let in by it",
    ]


def test_another_delay_counts_from_the_next_configuration_on(there):
    file = there.directory / "mailserver.toml"
    file.write_text(file.read_text().replace("failure_delay = 0", 'failure_delay = "1ms"'))
    there.administration.config = there.config
    write(there, "dan", f"{SHA}\nrole = auditor\n")
    assert login(there, "dan", "wrong") is None
    assert login(there, "dan").name == "dan"


@pytest.mark.parametrize("name", ["root", "mailer"])
def test_an_operator_has_no_name_of_an_owner(there, name):
    files = Operators(replace(there.config, user="mailer"), there.pool)
    with pytest.raises(Refused, match="an account that owns the server"):
        files.add(name, "auditor", PASSWORD)
