"""What is held for clients that do not read, in all: the oldest debts go first."""

from __future__ import annotations

from mailserver.transport.backlog import Backlog


class Client:
    def __init__(self, backlog: Backlog, left: int) -> None:
        self.backlog = backlog
        self.left = left
        self.is_cut = False
        backlog.add(self)

    def cut(self) -> None:
        self.is_cut = True
        self.backlog.discard(self)


def test_who_has_been_behind_for_longest_is_cut() -> None:
    backlog = Backlog(100)
    clients = [Client(backlog, 40) for _ in range(2)]
    backlog.check()
    assert not any(client.is_cut for client in clients)
    clients.append(Client(backlog, 60))
    backlog.check()
    assert [client.is_cut for client in clients] == [True, False, False]
    backlog.check()
    assert [client.is_cut for client in clients] == [True, False, False]


def test_who_has_caught_up_is_not() -> None:
    backlog = Backlog(100)
    first, second = Client(backlog, 90), Client(backlog, 90)
    backlog.discard(first)
    backlog.check()
    assert not first.is_cut and not second.is_cut
