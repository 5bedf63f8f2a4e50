"""Turns at work: a name has its share, in order, and what is too much is refused."""

from __future__ import annotations

import asyncio

import pytest

from mailserver.admin.roles import NOWHERE, Operator, Role
from mailserver.admin.turns import AT_WORK, OF_USER, WAITING, Turns
from mailserver.pool import Busy

ANN = Operator("ann@example.test", Role.USER, NOWHERE)
OWEN = Operator("owen", Role.OWNER)


@pytest.mark.parametrize(("operator", "at_work"), [(ANN, OF_USER), (OWEN, AT_WORK)])
def test_a_name_has_its_share_and_others_theirs(operator, at_work):
    async def whole():
        turns, gate, begun = Turns(), asyncio.Event(), []

        async def work(who, number):
            async with turns.turn(who):
                begun.append((who.name, number))
                await gate.wait()

        tasks = [asyncio.create_task(work(operator, number)) for number in range(at_work + WAITING + 1)]
        other = OWEN if operator is ANN else ANN
        tasks.append(asyncio.create_task(work(other, 0)))
        while (other.name, 0) not in begun:
            await asyncio.sleep(0)
        assert begun[:-1] == [(operator.name, number) for number in range(at_work)]
        with pytest.raises(Busy):
            await tasks[-2]
        tasks[at_work].cancel()  # one that waits
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        mine = [number for name, number in begun if name == operator.name]
        assert mine == [number for number in range(at_work + WAITING) if number != at_work]
        assert not turns._lines  # nothing is kept of names that are done

    asyncio.run(whole())
