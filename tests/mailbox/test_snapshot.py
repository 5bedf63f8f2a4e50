"""Names taken apart all together say what each of them says alone."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailserver.mailbox import snapshot as module
from mailserver.mailbox.names import Message, delivery_order
from mailserver.mailbox.snapshot import snapshot

_times = (
    st.sampled_from(["", "x", "999.M000001P1", "17\n1700000000.M000005P1"])
    | st.sampled_from(
        [
            "1700000000",
            "1700000000.M000005P1",
            "1700000000.M5P1",
            "1700000000.V8I3M40P2",
            "1700000000.M0000051",
        ]
    )
    | st.sampled_from(["1700000001.M000004P1", "17000000010.M000001P1"])
)
_hosts = st.sampled_from(["", ".h", ".i", ".W=1", " ", "\n", "é", "\udce9"])
_tails = st.sampled_from(
    [
        "",
        ",S=1",
        ",W=5",
        ",S=1,W=22",
        ",W=22,S=1",
        ",S=1,W=6,W=7",
        ",W=",
        ",S=1,W=8x",
        ",S=x,W=9",
        ",W=" + "9" * 19,
    ]
)
_flags = st.sampled_from(["", ":2,", ":2,S", ":2,W=3", ":2,S,W=4", ":1"])
_names = st.lists(st.builds("".join, st.tuples(_times, _hosts, _tails, _flags)).filter(bool), unique=True)
_ours = st.lists(
    st.builds("1700000000.M{:06d}P1.h,S=1,W={}".format, *[st.integers(0, 999_999)] * 2), unique=True
)


@given(_names | _ours, _names | _ours)
@example(["1.a,W=1,W=2", "1.b,S=3"], [])  # as many sizes as names, but not one in each
@example(["1.a", "1.a,W=1"], ["1.a"])
def test_what_many_names_tell_is_what_each_tells(new: list[str], cur: list[str]) -> None:
    for together in (2, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_TOGETHER", together)
            what_they_tell(new, cur)


def what_they_tell(new: list[str], cur: list[str]) -> None:
    expected: dict[str, Message] = {}
    for message in [Message(name, "new") for name in sorted(new)] + [
        Message(name, "cur") for name in sorted(cur)
    ]:
        expected[message.unique] = message
    in_order = sorted(expected.values(), key=lambda message: delivery_order(message.name))

    found = snapshot(new, cur)

    assert list(found) == in_order
    assert found.uniques == [message.unique for message in in_order]
    sizes = [message.wire_size for message in in_order]
    told = found.wire_sizes()
    assert told is None or list(told) == sizes
    odd = [message.name.count(",W=") != 1 for message in in_order]
    assert told is not None or None in sizes or any(odd)

    wanted = [message.subdirectory == "cur" for message in in_order]
    assert list(found.only(wanted)) == [message for message in in_order if message.subdirectory == "cur"]
