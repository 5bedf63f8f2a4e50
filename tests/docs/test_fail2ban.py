"""The fail2ban filter in deploy/ against the very lines that the server writes, with hostile names among them."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from docs.documents import ROOT

from mailserver import maillog
from mailserver.mta import authentication

# What fail2ban puts in place of <ADDR>, simplified.
ADDRESS = r"(?P<address>(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]+)"


@pytest.fixture
def banned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Log one login in the server's own way; the address that the filter would ban for it."""

    def banned(outcome: str, name: str, source: str) -> str | None:
        log = maillog.MailLog(str(tmp_path / "log"))
        monkeypatch.setattr(maillog, "_log", log)
        authentication._log(outcome, name, source, "pop3")
        log.close()
        line = (tmp_path / "log").read_text(encoding="utf-8").splitlines()[-1]
        plain, journal = _matches(line), _matches(f"host mailserver[4711]: {line}")
        assert plain == journal
        return plain

    return banned


def _matches(line: str) -> str | None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "deploy/fail2ban/filter.conf")
    pattern = parser["Definition"]["failregex"].replace("<ADDR>", ADDRESS)
    match = re.search(pattern, line)
    return match["address"] if match else None


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
@pytest.mark.parametrize("outcome", ["failed", "delayed"])
def test_failures(banned, outcome: str, source: str) -> None:
    assert banned(outcome, "ann@example.test", source) == source


@pytest.mark.parametrize("outcome", ["ok", "busy", "unavailable", "abandoned"])
def test_all_else_is_no_failure(banned, outcome: str) -> None:
    assert banned(outcome, "ann@example.test", "192.0.2.7") is None


@pytest.mark.parametrize(
    "name",
    [
        "x peer=198.51.100.9 protocol=pop3",
        'x" peer=198.51.100.9 protocol=pop3',
        'x\\" peer=198.51.100.9 protocol=pop3\\',
        "x\n2026-01-01T00:00:00.000Z event=login outcome=failed user=y peer=198.51.100.9 protocol=pop3",
        "",
        "\\",
        "ü b",
        "a=b",
    ],
)
def test_no_name_points_at_somebody_else(banned, name: str) -> None:
    assert banned("failed", name, "192.0.2.7") == "192.0.2.7"


def test_sockets_are_no_address(banned) -> None:
    assert banned("failed", "ann", "unix") is None


def test_other_events_that_quote_such_a_line() -> None:
    said = "event=login outcome=failed user=x peer=198.51.100.9 protocol=pop3"
    line = maillog._format(
        "recipient-refused", {"peer": "192.0.2.7", "rcpt": f"TO:<a {said}", "reply": "550"}
    )
    assert _matches(line.rstrip("\n")) is None
