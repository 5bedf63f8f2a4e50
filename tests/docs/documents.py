"""The documents of the repository, and what stands in them: fenced blocks, inline code, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"))
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [content for kind, content in _FENCE.findall(text(document)) if kind == language]


def prose(document: str) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", text(document))


def inline_code(document: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(document))


def headings(document: str) -> list[tuple[int, str]]:
    """Level and text of every heading."""
    found = re.findall(r"^(#{1,6}) (.+)$", prose(document), re.MULTILINE)
    return [(len(marks), heading) for marks, heading in found]


def section(document: str, heading: str) -> str:
    """What stands under a heading, up to the next one of the same or a higher level; no fenced blocks."""
    content = prose(document)
    match = re.search(rf"^(#+) {re.escape(heading)}$", content, re.MULTILINE)
    assert match, f"{document} has no heading {heading!r}"
    end = re.compile(rf"^#{{1,{len(match[1])}}} ", re.MULTILINE).search(content, match.end())
    return content[match.end() : end.start() if end else len(content)]


def rows(table_text: str) -> Iterator[list[str]]:
    """The cells of all table rows, heads and rulers too."""
    for line in table_text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
