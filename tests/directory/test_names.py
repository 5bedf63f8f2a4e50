"""Keys and file names: readable, injective, reversible, and never a way out of a directory."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.directory.names import decode, encode
from mailserver.mail.address import fold_local

# Characters that mean something to a file system, a shell, an editor or an address, beside any others.
text = st.text(
    alphabet=st.sampled_from("aäßéИ字.-_+=/\\%~#@:*?\0\n '\"\u0301\u0327١²ſ") | st.characters(), max_size=30
)


def keys(raw: str) -> str:
    return fold_local(raw.encode(errors="replace").decode())


def encoded(key: str) -> str | None:
    try:
        return encode(key)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ann", "ann"),
        ("ann.b-c_d+e=f", "ann.b-c_d+e=f"),
        ("müller", "müller"),
        ("иван7", "иван7"),
        ("字", "字"),
        (".ann", "%2Eann"),
        ("..", "%2E."),
        (".", "%2E"),
        ("a.", "a."),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("ann~", "ann%7E"),
        ("#ann#", "%23ann%23"),
        ("100%", "100%25"),
        ("%2e", "%252e"),
        ("a b", "a%20b"),
        ("a\0b", "a%00b"),
        ("a%\u0301", "a%25%CC%81"),  # a combining mark must not merge with what stands before it
    ],
)
def test_names_are_readable(key: str, name: str) -> None:
    assert encode(key) == name
    assert decode(name) == key


@pytest.mark.parametrize("key", ["", "Ann", "ÄNN", "a\u0308", "\udcff", "x" * 256, "/" * 86, "é" * 128, "ß"])
def test_what_is_no_folded_key_has_no_name(key: str) -> None:
    with pytest.raises(ValueError, match=r"local part|surrogates|codec"):
        encode(key)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".ann",
        ".ann.swp",
        ".tmp-12-0",
        "ann~",
        "#ann#",
        "Ann",
        "ann,v",
        "%61nn",  # a letter stands bare
        "%2eann",  # hexadecimal digits are capitals
        "a%2",
        "a%zz",
        "a%FF",
        "a\u0308nn",  # as macOS would decompose it
        "a b",
        "a/b",
        "%2E%2E",
    ],
)
def test_other_file_names_are_no_keys(name: str) -> None:
    assert decode(name) is None


@given(text.map(keys))
def test_round_trip(key: str) -> None:
    name = encoded(key)
    if name is None:
        assert not key or len(key) > 20 or fold_local(key) != key
        return
    assert decode(name) == key
    assert not {"/", "\0", "~", "#", "\\"} & set(name)
    assert name[0] != "."
    assert len(name.encode()) <= 255
    assert unicodedata.normalize("NFC", name) == name


@given(text.map(keys), text.map(keys))
def test_injective(one: str, other: str) -> None:
    if encoded(one) is not None and encoded(one) == encoded(other):
        assert one == other


@given(text | st.text(alphabet="%2EFa1.é", max_size=12))
def test_a_key_has_one_name(name: str) -> None:
    key = decode(name)
    assert key is None or encode(key) == name
