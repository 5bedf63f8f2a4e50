"""Counts of several processes."""

from mailserver.transport.gate import SLOTS, Gate, Limits

HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_all_slots_count() -> None:
    gate = Gate(Limits(connections=4, per_address=2, handshake_timeout=1.0))
    assert gate.enter(HERE) is None
    for slot in (3, 1):
        gate.clear(slot)
    gate.slot = 3
    assert gate.enter(HERE) is None
    gate.slot = 1
    assert gate.enter(HERE) == "per-address"
    assert (gate.enter(THERE), gate.enter(THERE)) == (None, None)
    gate.slot = 0
    assert gate.connections == 4
    assert gate.enter("192.0.2.3") == "connections"


def test_the_counts_of_a_process_go_with_it() -> None:
    gate = Gate(Limits(connections=2, per_address=1, handshake_timeout=1.0))
    gate.clear(SLOTS - 1)
    gate.slot = SLOTS - 1
    assert gate.enter(HERE) is None
    gate.slot = 0
    assert gate.enter(HERE) == "per-address"
    gate.clear(SLOTS - 1)
    assert gate.connections == 0
    assert gate.enter(HERE) is None
