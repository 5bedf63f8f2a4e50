"""Every call leaves one line: whatever becomes of it, without a secret, bounded, and with no field forged."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading

import pytest
from administered import ADMIN, ANN, AUDITOR, OWNER, PASSWORD, populated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailserver import maillog
from mailserver.admin import mailboxes, phrases
from mailserver.admin.refused import MOST, Refused, told
from mailserver.admin.roles import Operator, Role
from mailserver.directory import Missing
from mailserver.pool import Busy

SECRET = "correct-horse-battery"


@pytest.fixture
def there(memory_path):
    made = populated(memory_path)
    yield made
    made.close()


@pytest.fixture
def lines(monkeypatch):
    """The lines of the log that are about operations, as they are written."""
    seen = []

    def event(name, /, **fields):
        seen.append(maillog._format(name, fields))

    monkeypatch.setattr(maillog, "event", event)
    return seen


def audited(lines):
    return [line for line in lines if "event=audit" in line]


def only(lines):
    [line] = audited(lines)
    return line


def test_what_was_done(there, lines):
    there.perform(ADMIN, "user set", address="ann@a.test", enabled=False)
    assert " event=audit operator=dan role=domain-admin front=test " in only(lines)
    assert only(lines).endswith(
        ' operation="user set" outcome=done with-address=ann@a.test with-enabled=False\n'
    )


def test_what_was_refused_forbidden_or_does_not_exist(there, lines):
    for operator, words, said, outcome in (
        (OWNER, "user show", {"address": "nobody@a.test"}, "refused"),
        (OWNER, "user show", {"address": "no address"}, "refused"),
        (OWNER, "user show", {"nonsense": 1}, "refused"),
        (OWNER, "events", {}, "refused"),
        (ADMIN, "user show", {"address": "ann@b.test"}, "refused"),
        (ADMIN, "stop", {}, "forbidden"),
        (ANN, "mailbox show", {"address": "bob@a.test"}, "forbidden"),
    ):
        lines.clear()
        with pytest.raises((Refused, Missing)):
            there.perform(operator, words, **said)
        assert f" outcome={outcome}" in only(lines)


def test_a_command_that_there_is_not_is_not_repeated(there, lines):
    with pytest.raises(Refused, match="no such command"):
        there.perform(OWNER, ["whoami"])
    lines.clear()
    with pytest.raises(Refused, match="no such command"):
        there.perform(OWNER, SECRET)
    assert only(lines).endswith(" operation=unknown outcome=refused\n")
    assert SECRET not in "".join(lines)


def test_who_is_removed_leaves_what_he_tried(there, lines):
    there.operators.add("eve", "owner", PASSWORD)
    eve = asyncio.run(there.operators.authenticate("eve", PASSWORD, "192.0.2.1"))
    there.operators.remove("eve")
    lines.clear()
    with pytest.raises(Refused, match="eve is no operator any more"):
        there.perform(eve, "stop")
    assert " operator=eve role=owner front=test operation=stop outcome=forbidden" in only(lines)


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("stop", "stop"),
        ("operator list --x", "operator list"),
        (f"user passwd a@b.test {SECRET}", "user passwd"),
        ("'stop' now", "stop"),
        ("operator", None),
        (f"{SECRET} stop", None),
        (f"stop '{SECRET}", None),
        ("x" * 20_000, None),
        ("\x1b", None),
        ("", None),
    ],
)
def test_what_a_front_end_refuses_by_itself(there, lines, phrase, words):
    assert phrases.meant(phrase) == words
    there.administration.refuse(ADMIN, "test", words)
    outcome = "forbidden" if words in ("stop", "operator list") else "refused"
    operation = f'"{words}"' if words and " " in words else words or "unknown"
    assert only(lines).endswith(f" front=test operation={operation} outcome={outcome}\n")


def test_a_stream_leaves_one_line_when_it_begins(there, lines):
    assert there.watch(AUDITOR, "events")[0].line == "T event=login outcome=ok"
    assert " operation=events outcome=begun" in only(lines)
    lines.clear()
    with pytest.raises(Refused, match="status has one answer"):
        there.watch(AUDITOR, "status")
    assert " outcome=refused" in only(lines)


def test_a_fault_of_ours_is_told_by_its_kind_and_place(there, lines, monkeypatch):
    def broken(*_):
        raise RuntimeError(SECRET)

    monkeypatch.setattr(mailboxes, "summary", broken)
    with pytest.raises(RuntimeError) as fault:
        there.perform(OWNER, "mailbox show", address="ann@a.test")
    assert " outcome=failed" in only(lines)
    [line] = [line for line in lines if "event=operation-failed" in line]
    assert 'operation="mailbox show" error=RuntimeError where=' in line
    assert SECRET not in "".join(lines) + told(fault.value)


def test_who_leaves_before_the_answer(there, lines, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        go_on.wait(10)

    async def leave():
        call = there.administration.perform(OWNER, "test", "mailbox show", {"address": "ann@a.test"})
        asked = asyncio.ensure_future(call)
        await asyncio.to_thread(begun.wait, 10)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked

    monkeypatch.setattr(mailboxes, "summary", slow)
    asyncio.run(leave())
    go_on.set()
    assert " outcome=abandoned" in only(lines)


def test_no_secret_reaches_the_log(there, lines):
    there.perform(OWNER, "user passwd", address="ann@a.test", password=SECRET)
    there.perform(OWNER, "user add", address="new@a.test", password=SECRET)
    there.perform(OWNER, "operator add", name="carol", role="auditor", password=SECRET)
    for password in (f"{SECRET}\n", SECRET * 100, [SECRET], {"x": SECRET}):
        with pytest.raises(Refused) as refusal:
            there.perform(OWNER, "user passwd", address="ann@a.test", password=password)
        assert SECRET not in str(refusal.value)
    carol = asyncio.run(there.operators.authenticate("carol", SECRET, "192.0.2.1"))
    with pytest.raises(Refused, match="the old password is wrong"):
        there.perform(carol, "passwd", old=SECRET + "x", password=SECRET + "y")
    there.perform(carol, "passwd", old=SECRET, password=SECRET + "y")
    assert len(audited(lines)) == 9
    assert SECRET not in "".join(lines)


def test_lines_are_bounded(there, lines):
    many = [f"{'x' * 60}{number}@a.test" for number in range(999)]
    with pytest.raises((Refused, Missing)):
        there.perform(OWNER, "alias add", address="new@nobody.test", targets=many)
    there.perform(Operator("x" * 10_000, Role.OWNER), "whoami")
    assert max(map(len, audited(lines))) < 1500


@pytest.mark.parametrize(
    "given",
    [
        {"address": ["ann@a.test"]},
        {"address": None},
        {"address": 10**5000},
        {"address": "x" * 100_000},
        {"address": {"ann@a.test": 1}},
        {"address": 1.5},
        {"address": "ann@a.test\nT event=audit operator=eve"},
        {"address": "ann@a.test", "x" * 10_000: 1},
    ],
    ids=["list", "none", "huge", "long", "dict", "float", "lines", "unknown"],
)
def test_what_is_said_may_be_anything(there, lines, given):
    with pytest.raises(Refused) as refusal:
        there.perform(OWNER, "user show", **given)
    assert len(told(refusal.value)) < 400
    assert told(refusal.value).isprintable()
    assert only(lines).count("\n") == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(max_size=300), name=st.text(min_size=1, max_size=50), front=st.text(max_size=50))
def test_no_field_is_forged(there, lines, value, name, front):
    """What the log says is read back as what was said, whatever that looks like."""
    lines.clear()
    operator = Operator(name, Role.OWNER)
    with contextlib.suppress(Refused, LookupError, ValueError):
        asyncio.run(there.administration.perform(operator, front, "config get", {"key": value}))
    line = only(lines)
    assert line.count("\n") == 1
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
    keys = re.findall(r"(?<= )[a-z-]+(?==)", outside)
    expected = ["event", "operator", "role", "front", "operation", "outcome"]
    assert keys in (expected, [*expected, "with-key"])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Refused("no"), "no"),
        (Missing("no user x"), "no user x"),
        (Busy("storage"), "too busy, try again later"),
        (OSError(28, "No space left on device", "/secret/path"), "the disk refused: No space left on device"),
        (TimeoutError(), "the disk refused: no reason given"),
        (KeyError(SECRET), "it could not be done; the log says why"),
        (AssertionError(SECRET), "it could not be done; the log says why"),
        (Refused("two\nlines\x1b[2J"), "two lines [2J"),
        (Refused("x" * 5000), "x" * MOST),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_an_operator_is_told(error, text):
    assert told(error) == text


def test_the_audit_is_read_back_as_it_was_said(there):
    log = maillog.open_log(there.config.log_file)
    try:
        there.perform(OWNER, "domain show", domain="a.test")
        with pytest.raises(Refused):
            there.perform(ADMIN, "explain", subject='"x" operation=stop event=audit operator=eve')
        with pytest.raises(Refused):
            there.perform(ADMIN, "stop")
        log.flush()
        entries = there.perform(AUDITOR, "audit")
        assert [(one.operator, one.operation, one.outcome) for one in entries] == [
            ("olga", "domain show", "done"),
            ("dan", "explain", "refused"),
            ("dan", "stop", "forbidden"),
        ]
        assert entries[0].said == {"domain": "a.test"}
        assert entries[1].said == {"subject": '"x" operation=stop event=audit operator=eve'}
        log.flush()
        assert [one.operation for one in there.perform(AUDITOR, "audit", operator="dan", most=1)] == ["stop"]
    finally:
        log.close()
        maillog._log = None


def test_there_is_no_password_for_who_has_no_file(there):
    with pytest.raises(Refused, match="olga has no password here"):
        there.perform(OWNER, "passwd", old=PASSWORD, password=SECRET)
