"""Ids of messages: in the order of their times, which is the order in which the queue is listed and paged."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from mailserver.mta.reception import Message
from mailserver.queue.entry import is_id

EARLIEST, LATEST = 10**18, 10**19 - 1  # nanoseconds: 2001 to 2286


@given(st.lists(st.integers(EARLIEST, LATEST), min_size=2, max_size=5, unique_by=lambda at: at // 1000))
def test_who_came_earlier_has_the_lesser_id(times):
    ids = []
    for at in sorted(times):
        time_ns, time.time_ns = time.time_ns, lambda at=at: at
        try:
            ids.append(Message("/nowhere").id)
        finally:
            time.time_ns = time_ns
    assert ids == sorted(ids)
    assert all(map(is_id, ids))
