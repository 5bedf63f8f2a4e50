"""Perspective Broker for operators: remote objects over Twisted's protocol, by programs in other processes.

Twisted's broker with its doors narrowed: octets, values, objects and calls are bounded, messages that no
client of ours has a reason to send end the connection, and errors cross as one line. Nothing but the root's
two methods can be reached before a login. Not here: the transport (`transport.twisted`), what an operator
finds (`pb.perspective`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import Any, NamedTuple

from twisted.internet.protocol import Factory
from twisted.spread import jelly, pb

from mailserver import maillog
from mailserver.admin.refused import EXPECTED, Refused, told
from mailserver.admin.roles import Operator, Role
from mailserver.console.desk import FrontDesk
from mailserver.console.pb import octets, values
from mailserver.console.pb.octets import Expression, Malformed, Reader
from mailserver.console.pb.perspective import perspective
from mailserver.console.pb.references import Method, Reference, begin
from mailserver.console.pb.streams import Streams
from mailserver.console.pb.view import View
from mailserver.pool import Busy
from mailserver.transport.listener import Peer
from mailserver.transport.twisted import Bounds, Hosted

PROTOCOL = "pb"

EARLY = 4 * 1024  # octets of a message before the login
ANSWER = 8 * 1024 * 1024  # octets of an answer
OF_USER = 2 * 1024 * 1024  # octets of an answer to a mail user
LONG = 200  # values of a list, above which it is written in a thread
CALLS = 16  # calls of one connection under way: the next is not read before one is answered
REFERENCES = 256  # objects of ours that one connection holds
NAME = 100  # octets of a method's name
GUESSES = 3  # wrong passwords of one connection
_ROOT = b"root"


def factory(desk: FrontDesk) -> Callable[[Peer], asyncio.BaseProtocol]:
    """What makes the protocol of a connection."""

    def hosted(peer: Peer) -> asyncio.BaseProtocol:
        idle = desk.settings().idle_timeout
        bounds = Bounds(idle=idle, backlog=desk.backlog)
        return Hosted(PROTOCOL, _Brokers(desk, peer), peer, bounds=bounds, connections=desk.connections)

    return hosted


class _Brokers(Factory):
    def __init__(self, desk: FrontDesk, peer: Peer) -> None:
        self._desk = desk
        self._peer = peer

    def buildProtocol(self, addr: object) -> Any:
        return Broker(self._desk, self._peer)


class Call(NamedTuple):
    """A message to an object of ours, None if there is no such one; `answered`: whether the client waits."""

    number: int
    target: Reference | None
    name: bytes
    answered: bool
    args: Expression
    kwargs: Expression


class Broker(pb.Broker):
    """One connection."""

    knownDialects = [b"pb"]  # noqa: RUF012
    transport: Any  # a transport.twisted.Transport

    def __init__(self, desk: FrontDesk, peer: Peer) -> None:
        super().__init__(isClient=False, security=values.Allowed())
        self._desk = desk
        self._peer = peer
        self._reader = Reader(EARLY)
        self._streams = Streams(self)
        self._calls: set[asyncio.Task[None]] = set()
        self._most_calls = 1  # guesses come one after the other
        self._failures = 0
        self._longest = ANSWER
        self._view: View | None = None  # of who has logged in
        self._greeted = False  # the client has said its version
        self.setNameForLocal(_ROOT, Reference(self._root()))

    def _root(self) -> Mapping[str, Method]:
        if self._peer.uid is not None:
            return {"authenticate": self._authenticate, "login": self._login}
        return {"authenticate": self._authenticate}

    # ---- the connection

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.registerProducer(self, True)

    def connectionReady(self) -> None:
        self.sendCall(b"version", self.version)

    def dataReceived(self, chunk: bytes) -> None:
        self._reader.feed(chunk)
        self._read()
        if not self.transport.user and self._reader.held > EARLY and not self.transport.disconnecting:
            self._close("malformed")

    def connectionLost(self, reason: object = None) -> None:
        for call in self._calls:
            call.cancel()
        super().connectionLost(reason)
        self._streams.close()
        if self.transport.user:
            self._desk.places.dismiss(self._peer, self.transport.user)

    def _read(self) -> None:
        """Take what was received, as far as there is room for calls and the client takes its answers.

        Before the login we go on listening, for a client that hangs up while its guess waits is to be gone.
        """
        try:
            while self._open and (expression := self._reader.next()) is not None:
                self._receive(expression)
        except Malformed:
            self._close("malformed")
        if self._open or not self.transport.user:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    @property
    def _open(self) -> bool:
        return len(self._calls) < self._most_calls and not self.congested and not self.transport.disconnecting

    def _close(self, reason: str) -> None:
        maillog.count("broker.closed")
        maillog.event("broker-closed", peer=self._peer.address, reason=reason)
        self.transport.loseConnection()

    # ---- as the producer of what it writes

    @property
    def congested(self) -> bool:
        return bool(self.transport.held)

    async def taken(self) -> None:
        await self.transport.taken()

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._read()

    # ---- messages

    def _receive(self, expression: Expression) -> None:
        match expression:
            case bytes() if self.currentDialect is None and expression in self.knownDialects:
                self._selectDialect(expression)
            case _ if self.currentDialect is None:
                self._close("unexpected")
            case [b"version", self.version] if not self._greeted:
                self._greeted = True
            case [
                b"message",
                int(number),
                int() | bytes() as target,
                bytes(name),
                int(answered),
                args,
                kw,
            ] if self.currentDialect:
                self._call(Call(number, self._held(target), name[:NAME], bool(answered), args, kw))
            case [b"decref", int(number)] if number in self.localObjects:
                self.proto_decref(number)
            case [b"decache", int(number)] if number in self.remotelyCachedObjects:
                self.proto_decache(number)
            case _:
                self._close("unexpected")

    def _held(self, target: int | bytes) -> Reference | None:
        """The object called, looked up at once: the client may let go of it right behind the call."""
        local = self.localObjects.get(target)
        return None if local is None else local.object

    def _call(self, call: Call) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(call))
        self._calls.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not self.disconnected:
            self._read()

    async def _carry_out(self, call: Call) -> None:
        try:
            answer = await self._answer(call, await self._result(call))
        except Exception as error:
            answer = self._error(call, error)
        if call.answered and not self.disconnected:
            self.transport.write(answer)

    async def _answer(self, call: Call, result: object) -> bytes:
        """A long list is written in a thread: it is of plain values, and does not touch what we keep."""
        if isinstance(result, list) and len(result) > LONG:
            return await self._desk.administration.pool.run(self._written, call, result)
        return self._encoded([b"answer", call.number, self.serialize(result)])

    def _written(self, call: Call, result: list[object]) -> bytes:
        return self._encoded([b"answer", call.number, jelly.jelly(result, self.security)])

    async def _result(self, call: Call) -> object:
        with self._refusing(call):
            begun = self._begun(call)
        return await begun

    def _refusing(self, call: Call) -> AbstractContextManager[None]:
        """Who has logged in leaves a line of each call that is none."""
        if self._view is None:
            return nullcontext()
        name = call.name.decode(errors="replace")
        return self._view.refusing(None if call.target is None else call.target.words(name))

    def _begun(self, call: Call) -> Awaitable[object]:
        if call.target is None:
            raise Refused("no such object")
        method = call.target.method(call.name.decode(errors="replace"))
        args, kwargs = (values.read(part, self._refer) for part in (call.args, call.kwargs))
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise values.NotAllowed("expected arguments")
        return begin(method, args, kwargs)

    def _refer(self, number: int) -> pb.RemoteReference:
        return pb.RemoteReference(None, self, number, 1)

    def _encoded(self, expression: object) -> bytes:
        stream = BytesIO()
        self._encode(expression, stream.write)
        if stream.tell() > self._longest:
            raise Refused("the answer is too long: ask for less at a time")
        return stream.getvalue()

    def _error(self, call: Call, error: Exception) -> bytes:
        crossing = error if isinstance(error, pb.NoSuchMethod) else values.Refused(self.told(error))
        return self._encoded([b"error", call.number, self.serialize(values.failure(crossing))])

    def told(self, error: Exception) -> str:
        """An error as one line for the client; what is nobody's business goes to the log."""
        if isinstance(error, values.NotAllowed):
            return str(error)
        if not isinstance(error, (*EXPECTED, Busy, OSError)):
            maillog.count("session.failed")
            maillog.fault("session-failed", error, peer=self._peer.address)
        return told(error)

    # ---- references

    def registerReference(self, object: pb.Referenceable) -> int:
        """The client's number of an object of ours. Raises Refused."""
        if len(self.localObjects) >= REFERENCES:
            raise Refused(f"this connection holds {REFERENCES} references: let go of some")
        return int(super().registerReference(object))

    def sendDecRef(self, objectID: object) -> None:
        if not self.disconnected:
            super().sendDecRef(objectID)

    # ---- the way in

    async def _authenticate(self, name: object, password: object) -> Reference:
        """By an operator's name, or a user's address, and his password."""
        if not isinstance(name, str) or not isinstance(password, str):
            raise Refused("expected a name and a password")
        if not (self._peer.secure or self._peer.is_local):
            raise Refused("a password is taken over TLS alone")
        self._require_first()
        operator = await self._desk.operators.authenticate(name, password, self._peer.address)
        if operator is None:
            self._failures += 1
            if self._failures >= GUESSES:
                asyncio.get_running_loop().call_soon(self.transport.loseConnection)
            raise Refused("wrong name or password")
        return self._admit(operator)

    async def _login(self) -> Reference:
        """By the account of the process at the other end."""
        self._require_first()
        assert self._peer.uid is not None
        operator = self._desk.operators.of_uid(self._peer.uid)
        if operator is None:
            raise Refused("this account is no operator: log in with a name and a password")
        maillog.event(
            "login",
            outcome="ok",
            user=operator.name,
            peer=self._peer.address,
            uid=self._peer.uid,
            protocol="console",
        )
        return self._admit(operator)

    def _require_first(self) -> None:
        if self.transport.user:
            raise Refused(f"logged in already, as {self.transport.user}")

    def _admit(self, operator: Operator) -> Reference:
        if not self._desk.places.admit(self._peer, operator.name):
            raise Refused(f"too many connections of {operator.name}")
        self._longest = OF_USER if operator.role is Role.USER else ANSWER
        self.transport.admit(operator.name, 2 * self._longest)
        self._reader.most = octets.MOST
        self._most_calls = CALLS
        self._view = View(self._desk.administration, operator, self._streams)
        return perspective(self._view)
