"""The grammar of phrases: read back as they are written, bounded, and of nothing that a role may not."""

from __future__ import annotations

import asyncio

import pytest
from administered import ADMIN, ANN, AUDITOR, EVERYBODY, OWNER, populated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailserver.admin import phrases
from mailserver.admin.completion import MOST, complete
from mailserver.admin.operation import FLAG, Operation
from mailserver.admin.phrases import help as helped
from mailserver.admin.phrases import parse, render
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.admin.table import TABLE

WORDS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]).filter(str.isprintable), max_size=30)


@st.composite
def said(draw: st.DrawFn) -> tuple[Operation, dict[str, object], Role]:
    """An operation and anything at all that may be said with it, by somebody who may."""
    role = draw(st.sampled_from(list(Role)))
    operation = draw(st.sampled_from(list(phrases.allowed(role))))
    said: dict[str, object] = {}
    for one in operation.said_by(role):
        if not one.kind.public or not (one.needed or draw(st.booleans())):
            continue
        if one.kind is FLAG:
            said[one.name] = True
        elif one.many:
            said[one.name] = tuple(draw(st.lists(WORDS, min_size=1, max_size=4)))
        else:
            said[one.name] = draw(WORDS)
    left_out = False
    for one in operation.said_by(role):  # who leaves a place out says nothing by later ones
        if not one.option and one.kind.public:
            left_out = left_out or one.name not in said
            if left_out:
                said.pop(one.name, None)
    return operation, said, role


@given(said())
@settings(deadline=None)
def test_what_is_rendered_is_read_back(phrase):
    operation, given, role = phrase
    try:
        read = parse(render(operation, given, role), role)
    except Refused as refusal:
        assert "needs" in str(refusal)
        assert any(one.needed and one.name not in given for one in operation.said_by(role))
        return
    assert read.given == given
    assert read.operation.words == operation.words


@given(text=st.one_of(st.text(max_size=200), st.lists(st.sampled_from(sorted(TABLE)) | WORDS).map(" ".join)))
@settings(deadline=None)
def test_any_text_is_a_phrase_or_refused_in_a_line(text):
    for role in Role:
        try:
            phrase = parse(text, role)
        except Refused as refusal:
            assert len(str(refusal)) < 500
            assert str(refusal).isprintable()
        else:
            assert phrase.operation.allows(role)
            assert not any(one.name in phrase.given for one in phrase.secrets)


@pytest.mark.parametrize(
    ("text", "words", "given"),
    [
        ("domain list", "domain list", {}),
        ("  user   list  a.test ", "user list", {"domain": "a.test"}),
        (
            "user add ann@a.test --quota 1G --quota-messages=5",
            "user add",
            {"address": "ann@a.test", "quota": "1G", "quota_messages": "5"},
        ),
        (
            "user --quota 1G add ann@a.test",
            None,
            "user: expected add, list, passwd, remove, set, show",
        ),
        ("user add --quota 1G ann@a.test", "user add", {"address": "ann@a.test", "quota": "1G"}),
        (
            "alias add 'a b'@a.test x@a.test y@a.test",
            "alias add",
            {"address": "a b@a.test", "targets": ("x@a.test", "y@a.test")},
        ),
        ("domain remove a.test --with-users", "domain remove", {"domain": "a.test", "with_users": True}),
        ("status", "status", {}),
        ("status --watch", "status --watch", {}),
        (
            "config set hostname -- --x",
            "config set",
            {"key": "hostname", "value": "--x"},
        ),
        ("config set x --confirm 60s y", "config set", {"key": "x", "value": "y", "confirm": "60s"}),
        ("listener add smtp e --proxy-from a --proxy-from b", "listener add", None),
        ("domain", None, "domain: expected add, list, remove, set, show"),
        ("", None, "no such command"),
        ("frobnicate", None, "no such command"),
        ("domain show", None, "domain show needs DOMAIN (domain)"),
        ("domain show a b", None, "domain show: one word too many"),
        ("domain show --depth 1", None, "domain show has no option '--depth'"),
        ("domain remove a --with-users=yes", None, "domain remove: --with-users takes no value"),
        ("user add a@b --quota", None, "user add: --quota needs SIZE"),
        ("user add a@b --quota 1 --quota 2", None, "user add: --quota was said before"),
        ("domain show 'a", None, "a quotation is not closed"),
        ("domain show \\", None, "a quotation is not closed"),
        ("domain show a\x1b[2J", None, "a phrase has no control characters"),
        ("domain show a\ndomain list", None, "a phrase has no control characters"),
    ],
)
def test_phrases(text, words, given):
    if words is None:
        with pytest.raises(Refused) as refusal:
            parse(text, Role.OWNER)
        assert str(refusal.value) == given
        return
    phrase = parse(text, Role.OWNER)
    assert phrase.operation.words == words
    assert given is None or phrase.given == given


def test_a_secret_in_a_phrase_is_not_repeated():
    for text in (
        "user passwd ann@a.test hunter2",
        "passwd hunter2",
        "user passwd ann@a.test --password hunter2",
    ):
        with pytest.raises(Refused) as refusal:
            parse(text, Role.OWNER)
        assert "hunter2" not in str(refusal.value)
    assert [one.name for one in parse("passwd", Role.USER).secrets] == ["old", "password"]


@pytest.mark.parametrize(
    "text",
    [
        "user list " + "x" * phrases.MOST,
        "queue drop " + "a " * 5000,
        '"' * 16_000,
        "\\" * 16_001,
        "--" * 8000,
        "--x " * 4000,
        "''" * 8000,
        "user list " + "--" + "x" * 16_000,
    ],
)
def test_phrases_are_bounded(text):
    with pytest.raises(Refused) as refusal:
        parse(text, Role.OWNER)
    assert len(str(refusal.value)) < 300


def test_users_do_not_name_themselves():
    assert parse("trash restore --all", Role.USER).given == {"all": True}
    assert parse("trash restore M1", Role.USER).given == {"ids": ("M1",)}
    assert parse("trash restore ann@a.test M1", Role.HELP_DESK).given == {
        "address": "ann@a.test",
        "ids": ("M1",),
    }


# ---- nobody hears of what he may not


@pytest.mark.parametrize("role", list(Role))
def test_what_a_role_may_not_it_does_not_know(role):
    for words, operation in TABLE.items():
        needed = [one for one in operation.said_by(role) if one.needed and one.kind.public]
        text = " ".join([words, *(one.written + "=x" if one.option else "x" for one in needed)])
        if operation.allows(role):
            assert parse(text, role).operation.words == words
            assert helped(role, words).startswith(words)
            continue
        with pytest.raises(Refused) as refusal:
            parse(text, role)
        assert operation.help not in helped(role)
        assert helped(role, words) == "no such command"
        known = {word for one in phrases.allowed(role) for word in one.words.split()}
        unknown = set(words.split()) - known
        assert (
            not unknown
            or str(refusal.value) == "no such command"
            or not unknown & set(str(refusal.value).partition("expected ")[2].split(", "))
        )


def test_help_of_a_user_is_short():
    lines = helped(Role.USER).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "mailbox show",
        "passwd",
        "trash list",
        "trash purge [ID...] [--all] [--older-than DURATION]",
        "trash restore [ID...] [--all]",
        "whoami",
    ]
    assert helped(Role.USER, "trash restore").splitlines()[2] == "Put deleted messages back."


# ---- completion


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    made = populated(tmp_path_factory.mktemp("phrases"))
    yield made
    made.close()


def completed(there, operator, text):
    async def suggest(parameter, begun):
        return await there.administration.suggest(operator, "test", parameter, begun)

    return asyncio.run(complete(text, operator.role, suggest))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dom", ["domain"]),
        ("domain s", ["set", "show"]),
        ("domain show ", ["a.test", "b.test"]),
        ("domain show a", ["a.test"]),
        ("user show ann@", ["ann@a.test", "ann@b.test"]),
        ("user show an", []),
        ("user set ann@a.test --en", ["--enabled"]),
        ("user set ann@a.test --enabled ", ["no", "yes"]),
        ("user set ann@a.test --enabled no --", ["--inherit-quota", "--quota", "--quota-messages"]),
        ("status ", ["--watch"]),
        ("relay test ", ["out"]),
        ("listener pause ", ["tcp:127.0.0.1:2525"]),
        ("config get limits.re", ["limits.received", "limits.recipients"]),
        ("queue hold M1 M", ["M1", "M2", "M3", "M4"]),
        ("domain show a.test b", []),
        ("nothing ", []),
        ("domain show 'a", []),
        ("domain\x07", []),
        ("user add ann@a.test --quota ", []),
    ],
)
def test_completion(there, text, found):
    assert completed(there, OWNER, text) == found


def test_completion_is_for_what_one_sees(there):
    assert completed(there, ADMIN, "domain show ") == ["a.test"]
    assert completed(there, ADMIN, "user show ann@") == ["ann@a.test"]
    assert completed(there, ADMIN, "queue hold ") == ["--all", "M1", "M3"]
    assert completed(there, ANN, "") == ["mailbox", "passwd", "trash", "whoami"]
    assert completed(there, ANN, "trash ") == ["list", "purge", "restore"]
    assert completed(there, AUDITOR, "config ") == ["diff", "export", "get", "history"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        st.sampled_from(
            sorted({word for words in TABLE for word in words.split()} | {"a.test", "b.test", "--"})
        ),
        max_size=4,
    ),
    begun=st.text(max_size=3),
    operator=st.sampled_from(EVERYBODY),
)
def test_completion_offers_nothing_that_a_role_may_not(there, words, begun, operator):
    text = " ".join([*words, begun])
    offered = completed(there, operator, text)
    assert len(offered) <= MOST
    assert (
        operator is OWNER
        or operator is AUDITOR
        or "b.test" not in " ".join(offered)
        or operator.domains is None
    )
    known = {word for one in phrases.allowed(operator.role) for word in one.words.split()}
    hidden = {word for one in TABLE for word in one.split()} - known
    assert not hidden & set(offered)


def test_completion_offers_a_bounded_number():
    async def suggest(parameter, begun):
        return [f"d{number}.test" for number in range(10_000)]

    assert len(asyncio.run(complete("domain show ", Role.OWNER, suggest))) == MOST
