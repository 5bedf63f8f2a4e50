"""The perspective of an operator: what there is of the server for his role, as references.

Made of the table of operations: `domain add` is the method `add` of the reference that the method `domains`
gives, and what his role may not do is not there. Things are references, too: `domains.domain(name)` answers
with one that has the operations on that domain, if it is there for him.
Not here: what a reference is (`references`), whether it may be done after all (`admin.administration`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

import msgspec

from mailserver.admin.administration import Administration
from mailserver.admin.operation import ADDRESS, DOMAIN, Operation, Parameter, Scope
from mailserver.admin.roles import Operator
from mailserver.admin.table import TABLE
from mailserver.console.pb.references import Given, Method, Reference, given
from mailserver.console.pb.streams import Streams

FRONT = "pb"

TOPICS = {
    "alias": "aliases",
    "config": "configuration",
    "domain": "domains",
    "listener": "listeners",
    "mailbox": "mailboxes",
    "operator": "operators",
    "relay": "relays",
    "session": "sessions",
    "user": "users",
}
"""The first word of an operation, and the reference that has its others; a word not here is both."""


@dataclass(frozen=True)
class View:
    """The administration as it is for one operator over one connection."""

    administration: Administration
    operator: Operator
    streams: Streams

    def operations(self) -> list[Operation]:
        """All that he may do at all."""
        return [operation for operation in TABLE.values() if _is_for(self.operator, operation)]

    async def perform(self, operation: Operation, said: Given) -> object:
        """Its values as plain ones. Raises what the administration raises."""
        result = await self.administration.perform(self.operator, FRONT, operation.words, said)
        return msgspec.to_builtins(result)

    async def watch(self, operation: Operation, said: Given) -> AsyncGenerator[object, None]:
        async for value in self.administration.watch(self.operator, FRONT, operation.words, said):
            yield msgspec.to_builtins(value)


def _is_for(operator: Operator, operation: Operation) -> bool:
    return operation.allows(operator.role) and (operator.of_server or operation.scope is not Scope.SERVER)


def perspective(view: View) -> Reference:
    """The reference that stands for the server."""
    topics: dict[str, list[Operation]] = defaultdict(list)
    methods: dict[str, Method] = {}
    for operation in view.operations():
        topic, _, rest = operation.words.partition(" ")
        if rest:
            topics[topic].append(operation)
        else:
            methods[topic] = _method(view, operation, {})
    for topic, operations in topics.items():
        methods[TOPICS.get(topic, topic)] = _topic(view, topic, operations)
    return Reference(methods)


def _topic(view: View, topic: str, operations: Iterable[Operation]) -> Method:
    methods = {_verb(operation): _method(view, operation, {}) for operation in operations}
    for operation in operations:
        if _verb(operation) == "show" and (key := _key(operation)) is not None:
            methods[topic] = _thing(view, topic, operation, key)

    async def reference() -> Reference:
        return Reference(methods)

    return reference


def _thing(view: View, topic: str, show: Operation, key: Parameter) -> Method:
    """The method that answers with a reference to one thing of a topic, if it is there for the operator."""

    async def reference(name: object) -> Reference:
        said: Given = {key.name: name}
        await view.perform(show, said)
        return Reference(
            {
                _verb(operation) if operation.words.startswith(f"{topic} ") else _both(operation): _method(
                    view, operation, said
                )
                for operation in view.operations()
                if _is_about(operation, topic, key)
            }
        )

    return reference


def _is_about(operation: Operation, topic: str, key: Parameter) -> bool:
    """Whether an operation is about one thing: one of its topic, or of what has the same kind of name."""
    own = _key(operation)
    if own is None or own.name != key.name or operation.words.endswith(" add"):
        return False
    return operation.words.startswith(f"{topic} ") or (key.kind in (ADDRESS, DOMAIN) and own.kind == key.kind)


def _key(operation: Operation) -> Parameter | None:
    """The place that names the thing an operation is about."""
    first = next((one for one in operation.parameters if not one.option), None)
    return first if first is not None and not first.many else None


def _verb(operation: Operation) -> str:
    return operation.words.partition(" ")[2].replace(" ", "_")


def _both(operation: Operation) -> str:
    return operation.words.replace(" ", "_")


def _method(view: View, operation: Operation, said: Given) -> Method:
    role = view.operator.role
    if operation.stream:

        async def watch(observer: object, *args: object, **kwargs: object) -> Reference:
            values = view.watch(operation, given(operation, role, said, args, kwargs))
            return view.streams.subscribe(observer, values)

        return watch

    async def perform(*args: object, **kwargs: object) -> object:
        return await view.perform(operation, given(operation, role, said, args, kwargs))

    return perform
