"""The queue on disk: a fault, or the end, at every system call of a change; the order of syncs; the text."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from destinations import put, queued_content
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from system_calls import ERRORS, Calls, died, dying, failing

from mailserver import maillog
from mailserver.delivery import replies
from mailserver.durable import commit
from mailserver.durable.commit import Committer, Job, Staged
from mailserver.mail.address import Address, parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient, original_recipient, recipient_wishes
from mailserver.mail.path import PathError, forward_path, reverse_path
from mailserver.queue import entry as entries
from mailserver.queue.courier import Kind, Outcome
from mailserver.queue.departure import SharedDeparture
from mailserver.queue.entry import HELD, Entry, Queued, Status, Unreadable
from mailserver.queue.schedule import Schedule
from mailserver.queue.settling import settle
from mailserver.queue.spool import Missing, Spool
from mailserver.server.state import State

ANN = Address("ann", "here.test")
ENVELOPE = Envelope(ANN, (Recipient(Address("x", "far.test")), Recipient(Address("y", "far.test"))))


CONTENT = b"a: b\n\nwords\n"


def accept(spool: Spool, entry_id: str, *, shared: bool = True) -> Entry:
    departure = spool.destination(
        entry_id, ENVELOPE, size=len(CONTENT), wire_size=15, user="ann@here.test", shared=shared
    )
    return put(spool, departure, CONTENT)


@pytest.fixture
def spool(memory_path: Path) -> Spool:
    return prepared(memory_path / "queue")


def prepared(root: Path) -> Spool:
    spool = Spool(str(root), lambda: 1000.0)
    spool.prepare()
    return spool


def settled(entry: Entry) -> Entry:
    first = replace(entry.recipients[0], status=Status.RELAYED, reply="250 taken", attempts=1)
    return replace(entry, recipients=(first, replace(entry.recipients[1], due=2000.0)))


def change(spool: Spool, promise: Callable[[], None] = lambda: None) -> dict[str, OSError]:
    """Three entries are rewritten, two are removed; the content of what was removed goes."""
    stored = [settled(spool.load(entry_id)) for entry_id in ("S1", "S2", "S3")]
    errors = spool.apply(stored, ["R1", "R2"])
    promise()
    with suppress(OSError):  # the ledger tries again
        spool.sweep([entry_id for entry_id in ("R1", "R2") if entry_id not in errors])
    return errors


def build(root: Path) -> tuple[Spool, dict[str, Entry]]:
    spool = prepared(root)
    shared = {"S1": True, "S2": False, "S3": False, "R1": True, "R2": False, "T": False}
    return spool, {entry_id: accept(spool, entry_id, shared=its) for entry_id, its in shared.items()}


def check(spool: Spool, before: dict[str, Entry], done: set[str]) -> None:
    """Every entry is as it was or as it should be, that of `done` as it should be; content goes with it."""
    found = {entry_id for entry_id, _ in spool.ids()}
    for entry_id in found:
        entry = spool.load(entry_id)
        after = replace(settled(before[entry_id]), inside=False)
        assert entry in (before[entry_id], after)
        assert queued_content(spool, entry) == CONTENT
        assert entry_id not in done or entry == after
    assert {"S1", "S2", "S3", "T"} <= found
    assert spool.load("T") == before["T"]
    assert not found & done & {"R1", "R2"}
    commit.recover(os.path.join(spool.root, "tmp"))
    spool.recover()
    assert apart(spool) <= set(os.listdir(Path(spool.root, "msg"))) <= found
    assert os.listdir(Path(spool.root, "tmp")) == []


def apart(spool: Spool) -> set[str]:
    """Entries whose content has a name of its own."""
    return {entry_id for entry_id, _ in spool.ids() if not spool.load(entry_id).inside}


def number_of_calls(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """All calls of a change, and how many of them only read."""
    spool, before = build(root)
    with Calls().watched(monkeypatch) as calls:
        assert change(spool) == {}
    check(spool, before, {"S1", "S2", "S3", "R1", "R2"})
    return len(calls.made), calls.made.index("write") - 1  # the first one written was opened before


@pytest.mark.parametrize("code", ERRORS)
def test_errors(code: int, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, reading = number_of_calls(memory_path / "count", monkeypatch)
    assert count > reading + 20
    for at in range(count):
        spool, before = build(memory_path / str(at))
        done: set[str] = set()
        with Calls(at, failing(code)).watched(monkeypatch):
            try:
                done = set(before) - set(change(spool)) - {"T"}
            except OSError:
                assert at < reading, "only reading raises"
        check(spool, before, done)


def test_kill(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(number_of_calls(memory_path / "count", monkeypatch)[0]):
        spool, before = build(memory_path / str(at))

        def work(promise: Callable[[], None], at: int = at, spool: Spool = spool) -> None:
            with Calls(at, dying).watched(monkeypatch):
                change(spool, promise)

        promised = died(work)
        check(spool, before, set(before) - {"T"} if promised else set())


@pytest.mark.parametrize("code", [*ERRORS, None], ids=str)
def test_a_recovery_that_fails_is_made_up_for(
    code: int | None, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its calls: by an error, or by one more kill."""

    def littered(root: Path) -> Spool:
        spool, _ = build(root)
        for entry_id in ("R1", "R2", "S1"):
            Path(spool.root, "env", entry_id).unlink()
        return spool

    def recover(at: int, act: Callable[[], None], spool: Spool) -> int:
        with Calls(at, act).watched(monkeypatch) as calls:
            spool.forget("S")
            spool.recover()
        return len(calls.made)

    for at in range(recover(-1, lambda: None, littered(memory_path / "count"))):
        spool = littered(memory_path / str(at))
        if code is None:
            died(lambda _, at=at, spool=spool: recover(at, dying, spool) and None)  # type: ignore[misc]
        else:
            with suppress(OSError):
                recover(at, failing(code), spool)
        spool.recover()
        assert set(os.listdir(Path(spool.root, "msg"))) == apart(spool)
        assert {entry_id for entry_id, _ in spool.ids()} == {"S2", "S3", "T"}


def events(
    monkeypatch: pytest.MonkeyPatch, root: str, work: Callable[[], object], *, can_sync_all: bool = True
) -> list[str]:
    """What is synced, linked, renamed and unlinked below `root`, in order."""
    seen: list[str] = []

    def note(name: str, where: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            seen.append(f"{name} {os.path.relpath(where(*args, **kwargs), root)}")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    def opened(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def target(source: str, path: str, *, dst_dir_fd: int | None = None) -> str:
        return path if dst_dir_fd is None else os.path.join(opened(dst_dir_fd), path)

    def sync_all(fd: int) -> bool:
        seen.append("syncfs")
        return can_sync_all

    monkeypatch.setattr(commit, "_syncfs", sync_all)
    note("fsync", opened)
    note("link", target)
    note("rename", target)
    note("unlink", lambda path: path)
    work()
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("can_sync_all", [True, False])
def test_order_of_a_commit(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, can_sync_all: bool, shared: bool
) -> None:
    """Content, its name and the envelope are durable before the name that accepts the message."""
    committer = Committer(os.path.join(spool.root, "tmp"))

    def work() -> None:
        staged = Staged(os.path.join(spool.root, "tmp", "content"))
        staged.append(b"a: b\n\n")
        errors: list[Exception | None] = []
        departure = spool.destination("A1", ENVELOPE, size=6, wire_size=8, shared=shared)
        staged.append(departure.tail)
        committer.submit(Job(staged, [departure], lambda jobs: errors.extend(jobs[0].errors), together=True))
        committer.close()
        assert errors == [None]

    apart = [
        "link msg/A1",
        "syncfs",
        *([] if can_sync_all else ["fsync tmp/content", "fsync tmp/A1.env", "fsync msg"]),
        "rename env/A1",
        "unlink tmp/content",
        "fsync env",
    ]
    assert events(monkeypatch, spool.root, work, can_sync_all=can_sync_all) == (
        apart if shared else ["fsync tmp/content", "rename env/A1", "fsync env"]
    )


@pytest.mark.parametrize(
    ("call", "shared"),
    [
        ("rename", True),
        ("link", True),
        ("fsync", True),
        ("rename", False),
        ("utime", False),
        ("fsync", False),
    ],
)
def test_a_commit_that_fails_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, shared: bool
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    committer = Committer(os.path.join(spool.root, "tmp"))
    staged = Staged(os.path.join(spool.root, "tmp", "content"))
    staged.append(b"a: b\n\n")
    errors: list[Exception | None] = []
    departure = spool.destination("A1", ENVELOPE, size=6, wire_size=8, shared=shared)
    staged.append(departure.tail)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        committer.submit(Job(staged, [departure], lambda jobs: errors.extend(jobs[0].errors), together=True))
        committer.close()
    assert [type(error) for error in errors] == [OSError]
    assert [os.listdir(Path(spool.root, name)) for name in ("tmp", "msg", "env")] == [[], [], []]


@pytest.mark.parametrize("shared", [True, False])
def test_order_of_a_change(spool: Spool, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """The new text, and a name of its own for content that stood before the old one, are durable before it
    replaces that; content goes when its envelope is durably gone."""
    entry = accept(spool, "S1", shared=shared)
    accept(spool, "R1")

    def work() -> None:
        spool.apply([settled(entry)], ["R1"])
        spool.sweep(["R1"])

    seen = events(monkeypatch, spool.root, work)
    written = next(name for name in seen if name.startswith("fsync tmp/P"))
    parting = [] if shared else ["link msg/S1"]
    assert seen == [
        "unlink env/R1",
        *parting,
        written,
        *(["fsync msg"] if parting else []),
        "rename env/S1",
        "fsync env",
        "fsync env",
        "unlink msg/R1",
    ]


def test_a_directory_that_cannot_be_synced(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done then, as far as anybody is told, and the content stays: the old envelope may come back."""
    entry = accept(spool, "S1")
    removed = accept(spool, "R1")

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mailserver.queue.spool.sync_directory", fail)
    assert set(spool.apply([settled(entry)], ["R1"])) == {"S1"}
    with pytest.raises(OSError, match="Input/output error"):
        spool.sweep(["R1"])
    assert spool.content_size(removed) == 12
    with pytest.raises(OSError, match="Input/output error"):
        spool.store(entry)


def test_text(spool: Spool) -> None:
    """JSON with a version, for people and for programs of another time."""
    accept(spool, "A1")
    text = Path(spool.root, "env", "A1").read_text()
    assert text.endswith("}\n")
    fields = json.loads(text)
    assert fields["version"] == 1
    assert fields["sender"] == ["ann", "here.test"]
    assert fields["user"] == "ann@here.test"
    assert fields["recipients"][0]["recipient"]["address"] == ["x", "far.test"]
    assert os.stat(Path(spool.root, "env", "A1")).st_mode & 0o077 == 0


def test_text_of_a_hand(spool: Spool) -> None:
    """It may have several lines, and no line end."""
    entry = accept(spool, "A1")
    path = Path(spool.root, "env", "A1")
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert spool.load("A1") == entry


@pytest.mark.parametrize("shared", [True, False])
def test_empty_lines_of_a_hand(spool: Spool, shared: bool) -> None:
    """Some editors leave them at the end; the envelope is the last line that is none of them."""
    entry = accept(spool, "A1", shared=shared)
    with open(Path(spool.root, "env", "A1"), "ab") as file:
        file.write(b"\n \r\n")
    assert spool.load("A1") == entry
    assert spool.content_size(entry) == entry.size


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 1}',
        b'{"version": 2, "id": "A1"}',
        b"\x80\x04\x95\x00.",  # a pickle
        b'{"version":1,"id":"B2","sender":null,"recipients":[],"arrived":1.0,"size":1,"wire_size":1}',
        b"[" * 100_000,
        b'{"version": 1, "x": ' + b"[" * 100_000,
    ],
    ids=range(10),
)
def test_text_that_is_no_entry(spool: Spool, text: bytes) -> None:
    Path(spool.root, "env", "A1").write_bytes(text)
    with pytest.raises(Unreadable):
        spool.load("A1")


# What a hand or a damaged disk may have written, and what would come of it in a command, a field, a name.
DAMAGE = [
    ("sender", ["ann", "here.test>\r\nRCPT TO:<all@far.test"]),
    ("sender", ["ann\nBcc: x", "here.test"]),
    ("sender", ["", "here.test"]),
    ("sender", ["ann", "HERE.test"]),
    ("sender", ["ann", "[192.0.2.1"]),
    ("sender", ["ann", "[192.0.2.1]>\r\nDATA"]),
    ("sender", ["ann", "[IPv6:fe80::1%>\r\nDATA]"]),
    ("sender", ["ann", "[mx.far.test]"]),
    ("id", "../../etc/passwd"),
    ("ret", "FULL SIZE=1"),
    ("envid", "QQ\r\nDATA"),
    ("envid", "a b"),
    ("user", "ann\nevent=forged"),
    ("forwarded_by", "Far.test"),
    ("forwarded_by", "far.test\n"),
    ("size", -1),
    ("wire_size", 1e300),
    ("arrived", -1.0),
    ("report_due", 1e300),
    ("recipients.recipient.address", ["x", "far.test\n"]),
    ("recipients.recipient.address", ["x" * 65, "far.test"]),
    ("recipients.recipient.address", ["x\u0000", "far.test"]),
    ("recipients.recipient.notify", ["SUCCESS", "NEVER"]),
    ("recipients.recipient.notify", ["SUCCESS>\r\n"]),
    ("recipients.recipient.original", "rfc822;x@far.test\r\nRSET"),
    ("recipients.recipient.original", "rfc822;x NOTIFY=NEVER"),
    ("recipients.reply", "550 no\nAction: delivered"),
    ("recipients.reply", "x" * 1001),
    ("recipients.remote", "mx\r\n"),
    ("recipients.enhanced", "5.1.1\nAction: delivered"),
    ("recipients.due", -1e300),
    ("recipients.attempts", -1),
    ("recipients.attempts", 10**30),
    ("recipients.status", "gone"),
]


@pytest.mark.parametrize(("place", "value"), DAMAGE, ids=range(len(DAMAGE)))
def test_text_outside_the_grammar(spool: Spool, place: str, value: object) -> None:
    entry = accept(spool, "A1")
    assert spool.load("A1") == entry
    path = Path(spool.root, "env", "A1")
    fields = json.loads(path.read_bytes())
    inner, *names = fields, *place.split(".")
    for name in names[:-1]:
        inner = inner[name][0] if name == "recipients" else inner[name]
    inner[names[-1]] = value
    path.write_text(json.dumps(fields))
    with pytest.raises(Unreadable):
        spool.load("A1")


locals_ = st.text(max_size=70) | st.text(r'aSRS0=."\\ @>äß-', max_size=70)
domains = st.one_of(
    st.sampled_from(
        ["far.test", "Far.Test", "bücher.example", "xn--bcher-kva.example", "x", "[IPv6:fe80::1%x y]"]
    ),
    st.ip_addresses(v=4).map("[{}]".format),
    st.ip_addresses(v=6).map("[IPv6:{}]".format),
    st.integers(0, 2**32 - 1).map(lambda number: f"[ipv6:::ffff:{ipaddress.IPv4Address(number)}]"),
)
paths = st.builds(lambda local, domain: f"<{Address(local, domain)}>", locals_, domains)
words = paths | st.text(max_size=70).map("<{}>".format) | st.just("<>")
parameters = st.sampled_from(
    ["", " ORCPT=rfc822;x+20y@a.test", " ORCPT=utf-8;\\x{E4}@a.test", " ORCPT=utf-8;ä"]
)


@given(words, words, parameters)
@example("<a@[1.2.3.4]>", "<x@far.test>", "")
@example("<a@[IPv6:::1]>", "<x@far.test>", "")
def test_every_path_that_is_taken_can_be_read(sender: str, recipient: str, wishes: str) -> None:
    """Also as somebody's alias, whose ORCPT is made here; or mail would lie in the queue for ever."""
    try:
        author, _ = reverse_path(sender)
        found, given = forward_path(recipient + wishes)
    except PathError:
        return
    to = [found] if isinstance(found, Address) else []
    notify, original = recipient_wishes(given)
    rcpts = [Recipient(a, notify, o) for a in (*to, author) if a for o in (original, original_recipient(a))]
    envelope = Envelope(author, tuple(rcpts), ret="HDRS", envid="x+20y")
    entry = entries.begin("A1", envelope, size=1, wire_size=1, user=str(author or ""), now=1.0)
    assert entries.decode(entries.encode(entry)) == entry


@given(
    st.integers(200, 599),
    st.text(max_size=40) | st.from_regex(r"[245]\.\d{1,4}\.\d{1,4} .{0,9}", fullmatch=True),
)
def test_every_reply_that_is_kept_can_be_read(code: int, message: str) -> None:
    reply = replies.read(code, message)
    outcome = Outcome(Kind.DEFERRED, reply.code, reply.status, reply.text, "mx.far.test")
    entry = entries.begin("A1", ENVELOPE, size=1, wire_size=1, user="", now=1.0)
    after = settle(entry, [0], [outcome], Schedule(), 2.0, 0.5)
    assert entries.decode(entries.encode(after)) == after


addresses = st.sampled_from(["x@far.test", '"a b"@far.test', "jörg@bücher.example"]).map(parse_mailbox)
recipients = st.builds(
    Recipient,
    addresses,
    st.frozensets(st.sampled_from(["SUCCESS", "FAILURE", "DELAY"])),
    st.none() | st.just("rfc822;x+2By@far.test"),
)
queued = st.builds(
    Queued,
    recipients,
    st.sampled_from(Status),
    due=st.floats(0, 2e9),
    attempts=st.integers(0, 1000),
    reply=st.text(max_size=50).map(entries.clean),
    reported=st.booleans(),
)


def test_whose_it_is(spool: Spool) -> None:
    """Of the alias that sends it on, else of who logged in; text of before the alias was kept is read."""
    entry = accept(spool, "A1")
    assert entry.domain == "here.test"
    assert entries.decode(entries.encode(entry).replace(b'"forwarded_by":"",', b"")) == entry
    sent_on = replace(entry, forwarded_by="alias.test")
    assert entries.decode(entries.encode(sent_on)) == sent_on
    assert sent_on.domain == "alias.test"
    assert replace(entry, user="").domain == replace(entry, user="cron").domain == ""


@settings(max_examples=30, deadline=None)
@given(st.lists(queued, max_size=5), st.none() | addresses, st.booleans(), st.floats(0, 2e9))
def test_text_keeps_everything(given: list[Queued], sender: Address | None, held: bool, now: float) -> None:
    entry = Entry(
        id="A1",
        sender=sender,
        recipients=tuple(given),
        arrived=now,
        size=1,
        wire_size=2,
        held=held,
        ret="FULL",
    )
    assert entries.decode(entries.encode(entry)) == entry


@given(st.text())
def test_clean(text: str) -> None:
    cleaned = entries.clean(text * 3)
    assert len(cleaned) <= 1000
    assert all(character.isprintable() or character == " " for character in cleaned)
    cleaned.encode()


def test_what_a_dead_process_left_is_forgotten(tmp_path: Path) -> None:
    """Content that it was about to accept, and what it staged; nothing that was accepted, nor of others."""
    state = State(str(tmp_path))
    state.prepare()
    dead, others = "M1P77Q3R00", "M1P7Q73R00"
    for entry_id in (f"{dead}aa", f"{others}aa"):
        accept(state.spool, entry_id)
    for name in (f"{dead}bb", f"{dead}bbN2", f"{others}bb"):
        Path(state.spool.root, "msg", name).write_bytes(b"x")
    Path(state.staging, f"{dead}cc").write_bytes(b"x")
    state.forget(77)
    left = {path.name for path in Path(state.spool.root, "msg").iterdir()}
    assert left == {f"{dead}aa", f"{others}aa", f"{others}bb"}
    assert list(Path(state.staging).iterdir()) == []
    assert {entry_id for entry_id, _ in state.spool.ids()} == {f"{dead}aa", f"{others}aa"}


@pytest.mark.parametrize("name", ["", ".", "..", "../env/A1", "a/b", "A1\n", "x" * 101, "ä", "A1.env", "-"])
def test_names_that_are_no_ids(spool: Spool, name: str) -> None:
    """An id that an operator types never becomes a path."""
    accept(spool, "A1")
    for operation in (spool.load, spool.remove, spool.check):
        with pytest.raises(Missing):
            operation(name)
    Path(spool.root, "env", "not.an.id").touch()
    assert [found for found, _ in spool.ids()] == ["A1"]


def test_links_are_not_followed(spool: Spool, tmp_path: Path) -> None:
    entry = accept(spool, "A1")
    (tmp_path / "elsewhere").write_bytes(b"secret")
    for directory in ("env", "msg"):
        path = Path(spool.root, directory, "A1")
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        spool.load("A1")
    for inside in (False, True):
        with pytest.raises(OSError, match="symbolic links"):
            spool.open_content(replace(entry, inside=inside))


def test_only_files_are_opened(spool: Spool) -> None:
    """Whoever opened a FIFO, with nobody to write into it, would wait for ever."""
    entry = accept(spool, "A1")
    spool.remove("A1")
    for directory, look in (("env", lambda: spool.load("A1")), ("msg", lambda: spool.open_content(entry))):
        for make in (os.mkfifo, os.mkdir):
            accept(spool, "A1")
            path = Path(spool.root, directory, "A1")
            path.unlink()
            make(path)
            with pytest.raises(OSError, match="regular file"):
                look()
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            spool.remove("A1")


def test_due_times_need_no_reading(spool: Spool) -> None:
    entry = accept(spool, "A1")
    held = accept(spool, "B1")
    spool.store(replace(settled(entry)))
    spool.store(replace(held, held=True))
    assert dict(spool.ids()) == {"A1": 2000.0, "B1": HELD}


def test_removing_twice(spool: Spool) -> None:
    accept(spool, "A1")
    spool.remove("A1")
    spool.remove("A1")
    assert list(spool.ids()) == []
    with pytest.raises(Missing):
        spool.load("A1")
    with pytest.raises(Missing):
        spool.check("A1")


def test_a_disk_that_cannot_say_has_lost_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither content nor envelope counts as gone because of an error."""
    entry, other = accept(spool, "A1"), accept(spool, "B1", shared=False)
    looks = (lambda: spool.content_size(entry), lambda: spool.content_size(other), lambda: spool.check("A1"))
    for look in looks:
        with Calls(0, failing(errno.EIO)).watched(monkeypatch), pytest.raises(OSError, match="error"):
            look()


# ---- content and envelope in one file


@pytest.mark.parametrize(
    "content",
    [
        b"a: b\n\nwords\n",
        b"a: b\n\nno line end",
        b"a: b\n\n",
        b'a: b\n\n{"version":1,"id":"A1"}\n',
        b"a: b\n" + b"x" * 70_000,
        b"a: b\n" + b"\n" * 70_000,
    ],
    ids=range(6),
)
@pytest.mark.parametrize("crowd", [1, 2000])
def test_content_before_its_envelope(spool: Spool, content: bytes, crowd: int) -> None:
    """Both come back as they were, whatever the content ends with and however long the envelope is; so
    they do for who still has the entry of before a change."""
    recipients = tuple(Recipient(Address(f"x{number}", "far.test")) for number in range(crowd))
    departure = spool.destination(
        "A1", Envelope(ANN, recipients), size=len(content), wire_size=1, shared=False
    )
    entry = put(spool, departure, content)
    assert os.listdir(Path(spool.root, "msg")) == []
    assert spool.load("A1") == entry
    assert spool.is_as_it_came(entry)
    for changed in (replace(entry, held=True), replace(entry, held=False)):
        assert queued_content(spool, entry) == queued_content(spool, spool.load("A1")) == content
        assert spool.content_size(entry) == spool.content_size(spool.load("A1")) == len(content)
        assert spool.beginning(entry, 1 << 20) == content
        spool.store(changed)
        assert spool.load("A1") == replace(changed, inside=False)
        assert not spool.is_as_it_came(entry)
    spool.remove("A1")
    assert [os.listdir(Path(spool.root, name)) for name in ("tmp", "msg", "env")] == [[], [], []]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_content_that_is_damaged_before_its_envelope(spool: Spool, cut: int) -> None:
    """It never passes for the message, is kept for a hand to mend, and nothing of the envelope is taken for it."""
    entry = accept(spool, "A1", shared=False)
    path = Path(spool.root, "env", "A1")
    path.write_bytes(path.read_bytes()[cut:])
    assert spool.load("A1") == entry
    assert spool.content_size(entry) == len(CONTENT) - cut
    with pytest.raises(OSError, match="size"):
        spool.open_content(entry)
    spool.store(replace(entry, held=True))
    assert spool.content_size(spool.load("A1")) != len(CONTENT)
    assert Path(spool.root, "msg", "A1").read_bytes().startswith(CONTENT[cut:])


def test_an_envelope_is_no_content(spool: Spool) -> None:
    """Not even one of the size that the content had."""
    entry = accept(spool, "A1", shared=False)
    spool.store(entry)
    Path(spool.root, "msg", "A1").unlink()
    size = Path(spool.root, "env", "A1").stat().st_size
    for inside in (True, False):
        gone = replace(entry, inside=inside, size=size)
        assert spool.content_size(gone) is None
        with pytest.raises(Missing):
            spool.open_content(gone)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_the_disk_is_not_waited_for(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, shared: bool, half: bool
) -> None:
    """Where that is asked; and a file that cannot be looked into stays open nowhere."""
    entry = accept(spool, "A1", shared=shared)
    spool.store(entry)  # so both have a look at what is behind the content
    asked = []

    def wait(fd: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        asked.append(flags)
        if half:
            return 1  # what follows is in a block that is not in memory
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "preadv", wait)
    entry = replace(entry, size=entry.size - 1)
    with pytest.raises(BlockingIOError):
        spool.open_content(entry, os.RWF_NOWAIT)
    assert asked == [os.RWF_NOWAIT]
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("linked", [True, False])
def test_only_what_is_there_is_told_of_as_not_taken_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, linked: bool, shared: bool
) -> None:
    told: set[str] = set()
    monkeypatch.setattr(maillog, "event", lambda name, **fields: told.add(name))
    departure = spool.destination("A1", ENVELOPE, size=6, wire_size=8, shared=shared)
    content = Path(spool.root, "tmp", "content")
    content.write_bytes(b"a: b\n\n" + departure.tail)
    if isinstance(departure, SharedDeparture):
        departure.prepare(str(content))
    if linked:
        env = departure.open()
        departure.link(str(content), env, last=True)
        os.close(env)
    shutil.rmtree(departure.directory)
    Path(departure.directory).write_bytes(b"")  # neither can anything be linked there
    departure.unlink()
    assert told == ({"not-taken-back"} if linked else set())
