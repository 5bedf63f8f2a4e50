"""Random SMTP and LMTP dialogues in memory, on real mailboxes, against a model of what must be answered and stored.

The model knows every command's reply code, and so where content begins; a whole dialogue, content included,
then reaches the server in segments cut anywhere. Afterwards the mailboxes hold exactly the messages that
were answered with 250, byte for byte, once for each mailbox, and nothing else is left anywhere.
A second test sends mutated dialogues of the corpus, of which no model knows what they mean: what holds for
those is that the ids in the 250s are the ids in the mailboxes, and that nothing unforeseen happens.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from conversation import Memory, at_random, whole
from fuzz.mutations import corpus, mutated
from hypothesis import example, given, settings
from hypothesis import strategies as st
from office import Office
from torture.figures import SCALE

import mailserver.smtp.conversation as conversation
from mailserver import maillog
from mailserver.durable.commit import Job
from mailserver.transport.driver import Connections

SIZE_LIMIT = 5_000
RECIPIENTS = 5
UNKNOWN_VERBS = 5
TRACE = re.compile(
    rb"Return-Path: <[^\n]*>\n(?:Delivered-To: [^\n]*\n)?Received: from [^\n]*\n\tby [^\n]*(?:\n\tfor [^\n]*)?\n"
)
STORED_ID = re.compile(rb"250 2\.0\.0 OK (\d+M\w+)\r\n")


# ---- the office


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    root = Path(
        tempfile.mkdtemp(prefix="mailserver-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )
    office = Office(root)
    yield office
    office.close()
    shutil.rmtree(root)


def converse(office: Office, data: bytes, seed: int, *, lmtp: bool, drop: bool = False) -> bytes:
    """Everything the server says to `data`, sent in segments; `drop`: the client leaves without listening."""
    for mailbox in office.mail.glob("*/*/new"):
        shutil.rmtree(mailbox.parent)
    office.connections = Connections()
    unhandled: list[dict[str, object]] = []
    events: list[str] = []
    heard = bytearray()

    async def talk() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        session = office.session(lmtp=lmtp, message_size=SIZE_LIMIT, recipients=RECIPIENTS)
        wire = Memory(session, at_random(seed) if seed else whole)
        wire.send(data)
        if drop:
            await asyncio.sleep(0)
            wire.close()
        else:
            session.eof_received()
        async with asyncio.timeout(20):
            while block := await wire.receive():
                heard.extend(block)
            while len(office.connections) or office.reception._discarding:
                await asyncio.sleep(0.0005)
            await everything_committed(office)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=5)
        assert not [task for task in left if not task.done()], "a task is left behind"

    with (
        mock.patch.object(conversation, "ERROR_DELAY", 0.0),
        mock.patch.object(maillog, "event", lambda name, /, **_: events.append(name)),
    ):
        asyncio.run(talk())
    assert unhandled == []
    assert "unforeseen" not in events
    assert office.staged() == []
    return bytes(heard)


async def everything_committed(office: Office) -> None:
    """Messages whose client has left are committed none the less: wait for one that comes after all of them."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    nothing = office.reception.begin().staged
    office.committer.submit(Job(nothing, [], lambda _: loop.call_soon_threadsafe(done.set), together=True))
    await done.wait()


def stored(office: Office) -> Iterator[tuple[str, Path]]:
    for file in office.mail.glob("*/*/new/*"):
        yield file.parent.parent.name, file


# ---- the model

PLACES: dict[str, tuple[int, tuple[str, ...]]] = {
    "<ann@example.test>": (250, ("ann",)),
    "<bob@EXAMPLE.test>": (250, ("bob",)),
    "<ANN+tag@example.test>": (250, ("ann",)),
    "<team@example.test>": (250, ("ann", "bob")),
    "<postmaster>": (250, ("postmaster",)),
    "<@relay.test,@b.test:bob@example.test>": (250, ("bob",)),
    '<"a b"@example.test>': (250, ("a%20b",)),
    "<nobody@example.test>": (550, ()),
    "<ann@elsewhere.test>": (550, ()),
    "<off@example.test>": (450, ()),
    "<broken@example.test>": (451, ()),
    "<away@example.test>": (451, ()),
    "<ann>": (501, ()),
    "ann@example.test": (501, ()),
    "<ann@example.test> X=1": (555, ()),
}


class Model:
    """What a dialogue must be answered and what it must leave behind."""

    def __init__(self, lmtp: bool) -> None:
        self.lmtp = lmtp
        self.sent = bytearray()
        self.expected: list[tuple[str, frozenset[int]]] = [("greeting", frozenset({220}))]
        self.messages: Counter[tuple[str, bytes]] = Counter()
        self.closed = False
        self._greeted = False
        self._unknown = 0
        self._forget()

    def _forget(self) -> None:
        self._mail = False
        self._accepted: list[tuple[str, ...]] = []
        self._chunks: bytes | None = None

    def say(self, line: str | bytes, *codes: int) -> None:
        self.sent += (line if isinstance(line, bytes) else line.encode()) + b"\r\n"
        self.expected.append((repr(line), frozenset(codes)))

    # ---- commands

    def hello(self, verb: str) -> None:
        known = verb in (("LHLO",) if self.lmtp else ("EHLO", "HELO"))
        if not known:
            self.unknown(f"{verb} client.test".encode())
            return
        self.say(f"{verb} client.test", 250)
        self._greeted = True
        self._forget()

    def unknown(self, line: bytes) -> None:
        """A verb nobody knows; a client of which only those come is soon cut off."""
        self._unknown += 1
        self.closed = self._unknown == UNKNOWN_VERBS
        self.say(line, 421 if self.closed else 500)

    def mail(self) -> None:
        good = self._greeted and not self._mail
        self.say("MAIL FROM:<a@b.test>", 250 if good else 503)
        self._mail = self._mail or good

    def rcpt(self, target: str) -> None:
        code, places = PLACES[target]
        if not self._mail or self._chunks is not None:
            code = 503
        elif code not in (501, 555) and len(self._accepted) >= RECIPIENTS:
            code = 452
        self.say(f"RCPT TO:{target}", code)
        if code == 250:
            self._accepted.append(places)

    def plain(self, line: bytes, code: int) -> None:
        self.say(line, code)
        if line == b"RSET":
            self._forget()

    def data(self, lines: list[bytes]) -> None:
        if not self._accepted or self._chunks is not None:
            self.say("DATA", 503)
            return
        self.say("DATA", 354)
        content = b"".join(line + b"\r\n" for line in lines)
        stuffed = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines)
        self.sent += stuffed + b".\r\n"
        self._end(content)

    def chunk(self, octets: bytes, last: bool) -> None:
        self.sent += b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets
        if not self._accepted:
            self.expected.append(("BDAT", frozenset({503})))
            return
        self._chunks = (self._chunks or b"") + octets
        if last:
            content = self._chunks
            self._end(content if content.endswith(b"\r\n") or not content else content + b"\r\n", content)
            return
        refusals = refusals_of(self._chunks.removesuffix(b"\r"))
        self.expected.append(("BDAT", refusals or frozenset({250})))
        if refusals:
            self._forget()

    def _end(self, content: bytes, as_sent: bytes | None = None) -> None:
        refusals = refusals_of(content if as_sent is None else as_sent) or refusals_of(content)
        replies = len(self._accepted) if self.lmtp else 1
        self.expected += [("content", refusals or frozenset({250}))] * replies
        if not refusals:
            for place in {place for places in self._accepted for place in places}:
                self.messages[place, content.replace(b"\r\n", b"\n")] += 1
        self._forget()

    def quit(self) -> None:
        self.say("QUIT", 221)


def refusals_of(content: bytes) -> frozenset[int]:
    """The codes that content may be refused with; none for good content."""
    rest = content.replace(b"\r\n", b"")
    bare = b"\r" in rest or b"\n" in rest or b"\0" in rest
    return frozenset([554] * bare + [552] * (len(content) > SIZE_LIMIT))


# ---- dialogues

TEXT = st.binary(max_size=60).map(lambda line: re.sub(rb"[\r\n\0]", b".", line))
FAULTY = st.sampled_from([b"bare\rCR", b"bare\nLF", b"\n.", b"\0", b"\r", b"x\r", b"\n.\n", b".\r"])
LONG = st.integers(900, 3_000).map(lambda length: b"." * length)
DOTS = st.sampled_from([b".", b"..", b"...", b"", b".\t", b". "])
GOOD_LINES = st.lists(st.one_of(TEXT, DOTS, LONG), max_size=8)
LINES = st.one_of(GOOD_LINES, GOOD_LINES, st.lists(st.one_of(TEXT, DOTS, FAULTY), max_size=6))
OCTETS = st.one_of(
    st.binary(max_size=80),
    GOOD_LINES.map(lambda lines: b"".join(line + b"\r\n" for line in lines)),
    st.sampled_from([b"", b"x\r", b"\ny\r\n", b".\r\n", b"\r\n.\r\n", b"\n", b"\r\n"]),
)
OTHERS = st.sampled_from(
    [
        (b"NOOP", 250),
        (b"noop with words", 250),
        (b"RSET", 250),
        (b"VRFY ann", 252),
        (b"EXPN team", 502),
        (b"HELP", 214),
        (b"\xff\xfe", 500),
        (b"", 500),
        (b"DATA now", 501),
        (b"RSET now", 501),
        (b"STARTTLS now", 501),
        (b"EHL\xc5\xbf x", 500),
        (b"NOOP " + b"x" * 3000, 500),
    ]
)
ACTION = st.one_of(
    st.tuples(st.just("hello"), st.sampled_from(["EHLO", "HELO", "LHLO"])),
    st.tuples(st.just("mail")),
    st.tuples(st.just("rcpt"), st.sampled_from(list(PLACES))),
    st.tuples(st.just("rcpt"), st.sampled_from(list(PLACES)[:7])),
    st.tuples(st.just("data"), LINES),
    st.tuples(st.just("chunk"), OCTETS, st.booleans()),
    st.builds(lambda pair: ("plain", *pair), OTHERS),
    st.tuples(st.just("unknown"), st.sampled_from([b"XYZZY", b"xyzzy plugh", b"MAIL\0", b"DATA\t"])),
)
TRANSACTION = st.builds(
    lambda people, content: [("mail",), *(("rcpt", target) for target in people), *content],
    st.lists(st.sampled_from(list(PLACES)[:8]), min_size=1, max_size=4),
    st.one_of(
        st.tuples(st.tuples(st.just("data"), LINES)),
        st.lists(st.tuples(st.just("chunk"), OCTETS, st.just(False)), max_size=3).flatmap(
            lambda chunks: OCTETS.map(lambda last: [*chunks, ("chunk", last, True)])
        ),
    ),
)
DIALOGUE = st.lists(st.one_of(TRANSACTION, TRANSACTION, st.lists(ACTION, max_size=4)), max_size=6)


def codes_of(heard: bytes) -> list[int]:
    """The code of each reply; every line has to be one, of its form."""
    lines = heard.split(b"\r\n")
    assert lines.pop() == b"", heard
    codes = []
    for line in lines:
        match = re.fullmatch(rb"([2-5]\d\d)([ -])[\x20-\x7e]*", line)
        assert match, line
        if match[2] == b" ":
            codes.append(int(match[1]))
    return codes


@settings(max_examples=200 * SCALE, deadline=None)
@given(DIALOGUE, st.integers(0, 1 << 30), st.booleans())
@example([[("mail",), ("rcpt", "<team@example.test>"), ("data", [b".", b"..", b""])]], 1, False)
@example(
    [[("mail",), ("rcpt", "<ann@example.test>"), ("chunk", b"x\r", False), ("chunk", b"\n", True)]], 0, False
)
def test_replies_and_mailboxes_agree_with_the_model(
    office: Office, dialogue: list[list[tuple[object, ...]]], seed: int, lmtp: bool
) -> None:
    model = Model(lmtp)
    model.hello("LHLO" if lmtp else "EHLO")
    for action in [*(action for part in dialogue for action in part), ("quit",)]:
        if not model.closed:
            getattr(model, str(action[0]))(*action[1:])
    codes = codes_of(converse(office, bytes(model.sent), seed, lmtp=lmtp))
    wrong = [
        f"{number}: {what} expected {sorted(allowed)}, got {code}"
        for number, ((what, allowed), code) in enumerate(zip(model.expected, codes, strict=False))
        if code not in allowed
    ]
    assert wrong == [], codes
    assert len(codes) == len(model.expected)
    found: Counter[tuple[str, bytes]] = Counter()
    for user, file in stored(office):
        content = file.read_bytes()
        match = TRACE.match(content)
        assert match, content
        found[user, content[match.end() :]] += 1
    assert found == model.messages


# ---- mutations of the corpus

WORDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n.\r\n",
    b"\0",
    b"BDAT 5\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b" ",
    b"<",
    b">",
    b"@",
]


@settings(max_examples=300 * SCALE, deadline=None)
@given(mutated(corpus("smtp"), WORDS), st.integers(0, 1 << 30), st.booleans(), st.booleans())
def test_mutated_dialogues(office: Office, data: bytes, seed: int, lmtp: bool, drop: bool) -> None:
    heard = converse(office, data, seed, lmtp=lmtp, drop=drop)
    codes_of(heard)
    told = {id.decode() for id in STORED_ID.findall(heard)}
    there = {"".join(file.name.split(".")[:2]) for _, file in stored(office)}
    if drop:  # a client that does not wait for the answer may have its message stored none the less
        assert told <= there
    else:
        assert told == there
