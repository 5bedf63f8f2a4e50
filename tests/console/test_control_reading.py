"""Whatever stands in a line to the control socket: it is a request, or refused in a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.admin.table import TABLE
from mailserver.console.control import Asked, read

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.lists(st.text(max_size=5))
)
WORDS = st.sampled_from([*TABLE, "user", "no such thing", "--", "'", "\\", "--json", "ann@example.test"])


@given(st.binary(max_size=200) | st.lists(WORDS, max_size=5).map(lambda words: " ".join(words).encode()))
def test_phrases(line: bytes) -> None:
    outcome(line)


@given(
    st.dictionaries(
        st.sampled_from(["do", "with", "x"]),
        st.recursive(VALUES, lambda inner: st.dictionaries(st.text(max_size=5), inner)),
    )
)
def test_json(request: dict[str, object]) -> None:
    outcome(json.dumps(request).encode())


def outcome(line: bytes) -> None:
    for role in Role:
        try:
            asked = read(line, role)
        except Refused as refused:
            assert str(refused).isprintable()
            continue
        assert isinstance(asked, Asked)
        if not line.startswith(b"{"):
            assert TABLE[asked.do].allows(role)


@pytest.mark.parametrize("depth", [100, 5000, 30_000])
def test_deep_nesting(depth: int) -> None:
    with pytest.raises(Refused):
        read(b'{"do": "whoami", "with": ' + b'{"x":' * depth + b"1" + b"}" * depth + b"}", Role.OWNER)


def test_what_is_said_by_name_is_kept() -> None:
    asked = read(
        b'{"do": "user add", "with": {"address": "a@b.test", "quota": null, "n": 3, "yes": true}}', Role.OWNER
    )
    assert asked.given == {"address": "a@b.test", "quota": None, "n": 3, "yes": True}
