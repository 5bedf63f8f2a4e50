"""Results as lines: nothing is lost but control characters, and no line is wider than the window."""

from __future__ import annotations

import re
import string

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from rich.cells import cell_len

from mailserver.console import tables
from mailserver.console.line_editor import LineEditor


class Inner(Struct, frozen=True):
    number: int
    text: str


class Value(Struct, frozen=True):
    id: str
    note: str
    many: tuple[str, ...]
    quota: int
    inside: tuple[Inner, ...] = ()
    enabled: bool | None = None
    a_name_of_some_length: str = ""


TEXT = st.text(max_size=60)
VALUES = st.builds(
    Value,
    id=st.text(string.ascii_letters, min_size=1, max_size=16),
    note=TEXT,
    many=st.lists(TEXT, max_size=3).map(tuple),
    quota=st.integers(0, 2**60),
    inside=st.lists(st.builds(Inner, number=st.integers(0, 9), text=TEXT), max_size=3).map(tuple),
    enabled=st.sampled_from([True, False, None]),
)
WINDOW = st.one_of(st.none(), st.integers(20, 200))


def _lines(result, width):
    return [line for page in tables.pages(result, width) for line in page]


def _letters(text):
    return re.sub(r"[^A-Za-z]", "", text)


@given(st.one_of(VALUES, st.lists(VALUES, max_size=5), TEXT, st.none()), WINDOW)
def test_lines_are_fit_for_a_terminal_and_its_window(result, width):
    lines = _lines(result, width)
    assert all(line.isprintable() for line in lines)
    assert width is None or all(cell_len(line) <= width for line in lines)


@given(st.lists(VALUES, min_size=1, max_size=5), WINDOW)
def test_what_names_a_row_is_never_cut(values, width):
    words = {word for line in _lines(values, width) for word in line.split()}
    assert {value.id for value in values} <= words


@given(VALUES, WINDOW)
def test_nothing_is_lost_of_a_value(value, width):
    shown = _letters("".join(_lines(value, width)))
    assert _letters(tables.plain(value.note)) in shown


def test_forms():
    assert _lines([], 80) == ["(none)"]
    assert _lines(None, 80) == ["done"]
    assert _lines("one\n\ttwo\x1b\n", 80) == ["one", "        two?"]
    assert _lines({"text": "all\nof it"}, 80) == ["all", "of it"]
    assert _lines([Inner(1, "a"), Inner(22, "b")], 80) == ["number  text", "1       a", "22      b"]
    value = Value("x", "y", ("a", "b"), 0, a_name_of_some_length="z" * 20)
    assert _lines(value, 80) == [
        "id                     x",
        "note                   y",
        "many                   a, b",
        "quota                  no limit",
        "inside                 -",
        "enabled                -",
        "a name of some length  " + "z" * 20,
    ]
    assert _lines(value, 20)[-4:] == ["a name of some", "length", "  " + "z" * 18, "  zz"]


def test_a_long_list_comes_in_portions():
    pages = list(tables.pages([Inner(n, "x") for n in range(1000)], 80))
    assert len(pages) > 1 and sum(line.endswith("x") for page in pages for line in page) == 1000


def test_a_stream_has_its_heads_once():
    rolling = tables.Rolling()
    assert rolling.lines(Inner(1, "a")) == ["number  text", "1       a"]
    assert rolling.lines(Inner(23, "longer than before")) == ["23      longer than before"]


@given(st.text(max_size=100), st.integers(0, 100), st.integers(8, 100))
def test_the_part_of_a_line_that_is_shown_has_its_cursor(text, left, room):
    editor = LineEditor(200)
    editor.insert(text)
    for _ in range(left):
        editor.left()
    shown, at = editor.shown(room)
    assert cell_len(shown) <= room and at < room
    assert shown in editor.text


@given(st.lists(st.one_of(st.characters(), st.sampled_from([bytes([n]) for n in range(128)])), max_size=60))
def test_a_line_stays_a_line_whatever_is_pressed(keys):
    editor = LineEditor(20, ("one", "x" * 100))
    for key in keys:
        editor.insert(key) if isinstance(key, str) else editor.press(key)
        assert editor.text.isprintable() and len(editor.text) <= 20 and 0 <= editor.at <= len(editor.text)


def test_an_explained_address_that_is_taken_says_so():
    explained = {"recipient": "ann@example.test", "reply": "", "places": [], "steps": []}
    assert "reply      (taken)" in tables.lines(explained, None)
    refused = {**explained, "reply": "550 5.1.1 No such user here"}
    assert "reply      550 5.1.1 No such user here" in tables.lines(refused, None)
    queued = [{"id": "M1", "reply": ""}]  # nothing was said about it yet
    assert not any("taken" in line for page in tables.pages(queued, None) for line in page)
