"""What documents point to is there: files, headings, paths of the repository."""

from __future__ import annotations

import re

import pytest
from docs.documents import DOCUMENTS, ROOT, headings, inline_code, prose, section

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:tests|docs|deploy|mailserver|config|\.ci)/[\w./-]+")
MADE_LATER = re.compile(r"config/(tls|domains)|mailserver/README|config/mailserver\.log")


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"&\w+;|[^\w\s-]", "", heading.lower().replace("`", "")).strip()
    return plain.replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document: str) -> None:
    here = ROOT / document
    for target in _LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        found = (here.parent / file).resolve() if file else here
        assert found.exists(), f"{document}: {target}"
        if fragment:
            known = {anchor(heading) for _, heading in headings(found.relative_to(ROOT).as_posix())}
            assert fragment in known, f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_code(document: str) -> None:
    for code in inline_code(document):
        if _PATH.fullmatch(code) and not MADE_LATER.match(code):
            assert (ROOT / code).exists(), f"{document}: {code}"


def test_anchors_are_made_as_expected() -> None:
    assert anchor("domains/&lt;domain&gt;/users/&lt;name&gt;") == "domainsdomainusersname"
    assert anchor("What it does not do yet") == "what-it-does-not-do-yet"
    assert anchor("[[listener]]") == "listener"


def test_every_decision_is_listed() -> None:
    listed = set(_LINK.findall(prose("docs/decisions/README.md")))
    there = {path.name for path in (ROOT / "docs/decisions").glob("0*.md")}
    assert listed == there


def test_every_event_of_the_log_is_explained() -> None:
    said = set()
    for module in (ROOT / "mailserver").rglob("*.py"):
        calls = r'(?:\bevent|\b_note|trouble\.log|_format)\(\s*"([a-z]+(?:-[a-z]+)*)"'
        said |= set(re.findall(calls, module.read_text(encoding="utf-8")))
    assert {"received", "login", "session", "serving", "uidl-not-recorded", "log-dropped"} <= said
    explained = set(re.findall(r"`([a-z-]+)`", section("docs/quickstart.md", "The log")))
    assert said <= explained, said - explained
