"""What a dialogue cannot show: ends of sessions, what is logged and counted, delays, and long listings."""

from __future__ import annotations

import asyncio
import base64
import os

import pytest
from memory_maildrop import LOOPBACK, MemoryAuthenticator, MemoryMailbox, answered, memory_session

from mailserver import maillog
from mailserver.mail.sasl import Credentials, plain
from mailserver.pop3.login import LastLogins
from mailserver.pop3.session import VERBS, Session, State
from mailserver.transport.driver import Then

SECRET = "open sesame"
MAIL = b"Subject: one\r\n\r\nHello\r\n"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, **fields: lines.append(f"{name} {fields}"))
    return lines


def ask(session: Session, *lines: str) -> list[bytes]:
    async def work() -> list[bytes]:
        answers = [await answered(session, line.encode()) for line in lines]
        return [answer.data + b"".join(answer.stream or ()) for answer in answers]

    return asyncio.run(work())


def end(session: Session) -> None:
    session.lost()


def logged_in(mailbox: MemoryMailbox, **settings: object) -> Session:
    session = memory_session(mailbox, **settings)  # type: ignore[arg-type]
    ask(session, "USER ann@example.test", f"PASS {SECRET}")
    assert session.transaction
    return session


def test_a_dropped_connection_changes_nothing_and_releases_the_lock(events: list[str]) -> None:
    mailbox = MemoryMailbox([MAIL])
    session = logged_in(mailbox)
    ask(session, "DELE 1")
    end(session)
    assert list(mailbox.messages) == ["uid-1"]
    assert mailbox.holder is None
    assert "'ended': 'lost'" in events[-1]
    assert "'deleted': 0" in events[-1]


def test_a_time_out_is_silent_and_changes_nothing(events: list[str]) -> None:
    mailbox = MemoryMailbox([MAIL])
    session = logged_in(mailbox)
    ask(session, "DELE 1")
    assert session.timed_out() == b""
    end(session)
    assert list(mailbox.messages) == ["uid-1"]
    assert mailbox.holder is None
    assert "'ended': 'server'" in events[-1]


@pytest.mark.parametrize("marked", [["DELE 1"], []])
def test_quit_gives_the_lock_back_before_it_answers(marked: list[str]) -> None:
    mailbox = MemoryMailbox([MAIL])
    session = logged_in(mailbox)
    ask(session, *marked, "QUIT")
    assert mailbox.holder is None
    assert len(mailbox.trash) == len(marked)


def test_trouble_at_quit_is_told_and_removes_nothing(events: list[str]) -> None:
    mailbox = MemoryMailbox([MAIL])
    session = logged_in(mailbox)
    ask(session, "DELE 1")
    mailbox.trouble = True
    [answer] = ask(session, "QUIT")
    assert answer == b"-ERR [SYS/TEMP] 1 of 1 marked messages not removed\r\n"
    assert mailbox.holder is None
    end(session)
    assert "'deleted': 0" in events[-1]


@pytest.mark.parametrize("command", ["RETR 1", "TOP 1 0", "UIDL"])
def test_trouble_with_the_disk_passes(command: str) -> None:
    mailbox = MemoryMailbox([MAIL])
    session = logged_in(mailbox)
    mailbox.trouble = True
    assert ask(session, command)[0].startswith(b"-ERR [SYS/TEMP] ")
    mailbox.trouble = False
    assert ask(session, command)[0].startswith(b"+OK ")


def test_one_event_tells_what_was_done_and_no_password(events: list[str]) -> None:
    mailbox = MemoryMailbox([MAIL, MAIL])
    before = maillog.counters()
    session = memory_session(mailbox)
    token = base64.b64encode(f"\0ann@example.test\0{SECRET}".encode()).decode()
    wrong = base64.b64encode(b"\0ann@example.test\0wr0ng").decode()
    ask(session, "USER ann", "PASS wr0ng", f"AUTH PLAIN {wrong}", f"AUTH PLAIN {token}")
    ask(session, "RETR 1", "RETR 2", "RETR 3", "DELE 1", "QUIT")
    end(session)
    assert len(events) == 1
    assert "'user': 'ann@example.test'" in events[0]
    assert "'retrieved': 2" in events[0]
    assert f"'octets': {2 * len(MAIL)}" in events[0]
    assert "'deleted': 1" in events[0]
    assert "'ended': 'quit'" in events[0]
    for secret in (SECRET, "wr0ng", token, wrong):
        assert secret not in events[0]
    after = maillog.counters()
    assert after["pop3.retrieved"] - before.get("pop3.retrieved", 0) == 2
    assert after["pop3.deleted"] - before.get("pop3.deleted", 0) == 1


def test_credentials_do_not_show_in_texts() -> None:
    assert SECRET not in repr(Credentials("ann", SECRET))
    given = plain(base64.b64encode(f"\0ann\0{SECRET}".encode()))
    assert given == ("ann", SECRET)
    assert SECRET not in f"{given}"


def test_a_password_in_clear_is_not_even_looked_at() -> None:
    authenticator = MemoryAuthenticator()
    peer = LOOPBACK._replace(address="192.0.2.1")
    session = memory_session(MemoryMailbox(), peer, authenticator)
    ask(session, "USER ann", f"PASS {SECRET}", "AUTH PLAIN AGFubgBvcGVuIHNlc2FtZQ==")
    assert authenticator.asked == []


def test_the_authenticator_hears_name_source_and_protocol() -> None:
    authenticator = MemoryAuthenticator()
    session = memory_session(MemoryMailbox(), LOOPBACK, authenticator)
    ask(session, "USER Ann@Example.test", "PASS x  y ")
    assert authenticator.asked == [("Ann@Example.test", "x  y ", "127.0.0.1", "pop3")]


def test_login_delay() -> None:
    clock = [1000.0]
    last = LastLogins(lambda: clock[0])
    mailbox = MemoryMailbox()

    def login_now() -> bytes:
        session = memory_session(mailbox, last_logins=last, login_delay=60.0)
        answers = ask(session, "USER ann", f"PASS {SECRET}")
        end(session)
        return answers[-1]

    assert login_now().startswith(b"+OK")
    assert login_now().startswith(b"-ERR [LOGIN-DELAY] ")
    clock[0] += 59
    assert login_now().startswith(b"-ERR [LOGIN-DELAY] ")
    clock[0] += 1
    assert login_now().startswith(b"+OK")


def test_a_login_that_found_the_maildrop_in_use_delays_no_other() -> None:
    last = LastLogins()
    mailbox = MemoryMailbox()
    holder = mailbox.open()
    session = memory_session(mailbox, last_logins=last, login_delay=60.0)
    assert ask(session, "USER ann", f"PASS {SECRET}")[-1].startswith(b"-ERR [IN-USE] ")
    holder.close()
    assert ask(session, "USER ann", f"PASS {SECRET}")[-1].startswith(b"+OK")


def test_last_logins_are_known_to_other_processes() -> None:
    last = LastLogins()
    child = os.fork()
    if child == 0:
        last.remember("ann@example.test")
        os._exit(0)
    os.waitpid(child, 0)
    assert last.too_soon("ann@example.test", 60.0)
    assert not last.too_soon("bob@example.test", 60.0)


@pytest.mark.parametrize(
    ("retention", "told"), [(86400.0, "1 day"), (2.5 * 86400, "2 days"), (7200.0, "2 hours")]
)
def test_quit_tells_the_retention(retention: float, told: str) -> None:
    session = logged_in(MemoryMailbox([MAIL]), trash_retention=retention)
    assert (
        ask(session, "DELE 1", "QUIT")[-1] == f"+OK 1 message deleted, kept in Trash for {told}\r\n".encode()
    )


def test_what_capa_tells_is_what_is_done() -> None:
    """Every capability that is a verb gets another answer than an unknown command; others are known ones."""
    session = memory_session(MemoryMailbox([MAIL]), starttls=True, login_delay=5.0)
    [listing] = ask(session, "CAPA")
    told = {line.split()[0] for line in listing.decode().split("\r\n")[1:-2]}
    parameters = {
        "RESP-CODES",
        "AUTH-RESP-CODE",
        "PIPELINING",
        "EXPIRE",
        "IMPLEMENTATION",
        "LOGIN-DELAY",
        "SASL",
    }
    assert told - parameters <= {verb.decode() for verb in VERBS}
    assert parameters <= told
    for verb, entry in VERBS.items():
        if entry.state is not State.TRANSACTION:
            assert ask(session, verb.decode())[0] != b"-ERR Unknown command\r\n"


def test_a_line_over_the_drivers_limit_ends_an_exchange() -> None:
    session = memory_session(MemoryMailbox())
    ask(session, "AUTH PLAIN")
    assert session.too_long().data == b"-ERR Line too long\r\n"
    assert ask(session, "USER ann")[0].startswith(b"+OK")


def test_the_unforeseen_closes_and_changes_nothing(events: list[str]) -> None:
    mailbox = MemoryMailbox([MAIL])
    session = logged_in(mailbox)
    ask(session, "DELE 1")
    answer = session.failure()
    assert answer.data.startswith(b"-ERR [SYS/TEMP] ")
    assert answer.then is Then.CLOSE
    end(session)
    assert list(mailbox.messages) == ["uid-1"]
    assert "'ended': 'failure'" in events[-1]


@pytest.mark.parametrize("command", ["LIST", "UIDL"])
def test_a_long_listing_is_made_in_small_blocks_off_the_loop(command: str) -> None:
    session = logged_in(MemoryMailbox([b""] * 50_000))
    answer = asyncio.run(answered(session, command.encode()))
    assert answer.stream is not None
    assert answer.data.count(b"\r\n") == 1
    blocks = list(answer.stream)
    assert max(block.count(b"\r\n") for block in blocks) <= 1000
    assert b"".join(blocks).count(b"\r\n") == 50_001
