"""Random commands to a session and to a model of what RFC 1939 says; then random octets, to a session alone."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_maildrop import MemoryMailbox, answered, memory_session

from mailserver.pop3.session import VERBS, Session
from mailserver.transport.driver import Answer, Then

T = TypeVar("T")
MAIL = [b"Subject: %d\r\n\r\n%s" % (n, b".line\r\n" * n) for n in range(1, 6)]


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("waited for something")


def say(session: Session, line: bytes) -> bytes:
    answer = now(answered(session, line))
    return answer.data + b"".join(answer.stream or ())


class Model:
    """A mailbox as RFC 1939 §5 and §6 see it; `answer` gives what the answer must begin with, and its lines."""

    def __init__(self, mail: list[bytes]) -> None:
        self.mail = dict(enumerate(mail, 1))
        self.marked: set[int] = set()
        self.removed: set[int] = set()  # by another program

    def left(self) -> dict[int, bytes]:
        return {n: text for n, text in self.mail.items() if n not in self.marked}

    def answer(self, verb: str, n: int, lines: int) -> tuple[bool, list[bytes] | None]:
        if verb == "STAT":
            return True, [b"%d %d" % (len(self.left()), sum(map(len, self.left().values())))]
        if verb == "LIST" and not n:
            return True, [b"%d %d" % (k, len(text)) for k, text in self.left().items()] + [b"."]
        if verb == "UIDL" and not n:
            return True, [b"%d uid-%d" % (k, k) for k in self.left()] + [b"."]
        if verb == "RSET":
            self.marked.clear()
            return True, None
        if verb == "NOOP":
            return True, None
        if n not in self.left():
            return False, None
        if verb == "DELE":
            self.marked.add(n)
            return True, None
        if verb == "LIST":
            return True, [b"%d %d" % (n, len(self.mail[n]))]
        if verb == "UIDL":
            return True, [b"%d uid-%d" % (n, n)]
        if n in self.removed:
            return False, None
        header, _, body = self.mail[n].partition(b"\r\n\r\n")
        rows = body.split(b"\r\n")[:-1]
        text = [*header.split(b"\r\n"), b"", *(rows if verb == "RETR" else rows[:lines])]
        return True, [b"." + row if row.startswith(b".") else row for row in text] + [b"."]


def agrees(got: bytes, ok: bool, lines: list[bytes] | None) -> bool:
    if not ok:
        return got.startswith(b"-ERR ") and got.count(b"\r\n") == 1
    first, *rest = got.split(b"\r\n")[:-1]
    if lines is None:
        return first.startswith(b"+OK") and not rest
    return first == b"+OK " + lines[0] if not rest else first.startswith(b"+OK") and rest == lines


NUMBERED = ("RETR", "DELE", "LIST", "UIDL", "TOP")
COMMAND = st.tuples(
    st.sampled_from(["STAT", "LIST", "UIDL", "RSET", "NOOP", "REMOVE", *NUMBERED, *NUMBERED]),
    st.integers(0, 7),
    st.integers(0, 6),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5), st.lists(COMMAND, max_size=30), st.booleans())
def test_answers_agree_with_the_model(
    size: int, commands: list[tuple[str, int, int]], leave_by_quit: bool
) -> None:
    mailbox = MemoryMailbox(MAIL[:size])
    model = Model(MAIL[:size])
    session = memory_session(mailbox)
    say(session, b"USER ann")
    say(session, b"PASS open sesame")
    for verb, n, lines in commands:
        if verb == "REMOVE":
            if mailbox.messages.pop(f"uid-{n}", None) is not None:
                model.removed.add(n)
            continue
        words = [verb]
        if verb in NUMBERED and (n or verb not in ("LIST", "UIDL")):
            words.append(str(n))
        if verb == "TOP":
            words.append(str(lines))
        expected = model.answer(verb, n if len(words) > 1 else 0, lines)
        line = " ".join(words).encode()
        got = say(session, line)
        assert agrees(got, *expected), f"{line!r}: {got!r}, expected {expected!r}"
    if leave_by_quit:
        assert say(session, b"QUIT").startswith(b"+OK")
    session.lost()
    gone = {f"uid-{n}" for n in model.removed | (model.marked if leave_by_quit else set())}
    assert set(mailbox.messages) == {f"uid-{n}" for n in model.mail} - gone
    assert set(mailbox.trash) == {f"uid-{n}" for n in model.marked - model.removed if leave_by_quit}
    assert mailbox.holder is None


ODD = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda verb, rest: verb + rest,
        st.sampled_from([*VERBS, b"AUTH PLAIN", b"+", b"*"]),
        st.one_of(st.just(b""), st.binary(max_size=40).map(lambda rest: b" " + rest)),
    ),
    st.sampled_from([b"USER ann", b"PASS open sesame", b"AUTH PLAIN", b"RETR 1", b"TOP 2 1", b"DELE 2"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(ODD, max_size=25))
@example([b"USER ann", b"PASS \xff\xfe"])
@example([b"AUTH PLAIN", b"\xff"])
@example([b"AUTH PLAIN", b"A" * 20_000])
@example([b"USER " + b"\xf0\x9f", b"PASS x"])
@example([b"LANG \x80"])
@example([b"L\xc4\xb1ST"])
def test_any_line_gets_one_answer(lines: list[bytes]) -> None:
    session = memory_session(MemoryMailbox(MAIL[:2]), starttls=True)
    for line in lines:
        answer: Answer = now(answered(session, line))
        data = answer.data + b"".join(answer.stream or ())
        assert data.startswith((b"+OK ", b"-ERR ", b"+ "))
        assert data.endswith(b"\r\n")
        assert len(data.split(b"\r\n")[0]) + 2 <= 512  # RFC 2449 §4
        if answer.then is Then.CLOSE:
            break
    session.lost()
