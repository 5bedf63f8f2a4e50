"""The perspective of an operator: what there is of the server for his role, as references.

Made of the table of operations: `domain add` is the method `add` of the reference that the method `domains`
gives, and what his role may not do is not there. Things are references, too: `domains.domain(name)` answers
with one that has the operations on that domain, if it is there for him. What phrases watch is mirrored:
`queue list --watch` is the method `watch` of the queue, `status --watch` is `watch_status`.
Not here: what a reference is (`references`), whether it may be done after all (`admin.administration`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from mailserver.admin.operation import ADDRESS, DOMAIN, Operation, Parameter
from mailserver.console.pb import typed
from mailserver.console.pb.references import Given, Method, Reference, given
from mailserver.console.pb.streams import Mirror
from mailserver.console.pb.view import View

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

_WATCHED = " --watch"


def perspective(view: View) -> Reference:
    """The reference that stands for the server."""
    topics: dict[str, list[Operation]] = defaultdict(list)
    methods: dict[str, Method] = {}
    for operation in view.operations():
        topic, _, rest = operation.words.removesuffix(_WATCHED).partition(" ")
        if rest:
            topics[topic].append(operation)
        else:
            methods[_verb(operation)] = _method(view, operation, {})
    for topic, operations in topics.items():
        methods[TOPICS.get(topic, topic)] = _topic(view, topic, operations)
    return Reference({**methods, **typed.methods(view)}, "")


def _topic(view: View, topic: str, operations: Iterable[Operation]) -> Method:
    methods = {_verb(operation): _method(view, operation, {}) for operation in operations}
    for operation in operations:
        if _verb(operation) == "show" and (key := _key(view, operation)) is not None:
            methods[topic] = _thing(view, topic, operation, key)

    async def reference() -> Reference:
        return Reference(methods, topic)

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
                if _is_about(view, operation, topic, key)
            },
            topic,
        )

    return reference


def _is_about(view: View, operation: Operation, topic: str, key: Parameter) -> bool:
    """Whether an operation is about one thing: one of its topic, or of what has the same kind of name."""
    own = _key(view, operation)
    if own is None or own.name != key.name or operation.words.endswith(" add"):
        return False
    return operation.words.startswith(f"{topic} ") or (key.kind in (ADDRESS, DOMAIN) and own.kind == key.kind)


def _key(view: View, operation: Operation) -> Parameter | None:
    """The place that names the thing an operation is about; a user names nothing, who is about himself."""
    first = next((one for one in operation.said_by(view.operator.role) if not one.option), None)
    return first if first is not None and not first.many else None


def _verb(operation: Operation) -> str:
    words = operation.words.removesuffix(_WATCHED).split()
    verb = "_".join(words[1:] or words)
    if operation.words.endswith(_WATCHED):
        return "watch" if verb == "list" else f"watch_{verb}"
    return verb


def _both(operation: Operation) -> str:
    return operation.words.replace(" ", "_")


def _method(view: View, operation: Operation, said: Given) -> Method:
    role = view.operator.role
    if operation.words.endswith(_WATCHED):

        async def mirror(*args: object, **kwargs: object) -> Mirror:
            with view.refusing(operation.words):
                view.streams.require_room()
                together = given(operation, role, said, args, kwargs)
            states = view.states(operation, together)
            return await view.streams.mirror(states)

        return mirror
    if operation.stream:

        async def watch(observer: object, *args: object, **kwargs: object) -> Reference:
            with view.refusing(operation.words):
                values = view.watch(operation, given(operation, role, said, args, kwargs))
                return view.streams.subscribe(observer, values)

        return watch

    async def perform(*args: object, **kwargs: object) -> object:
        with view.refusing(operation.words):
            together = given(operation, role, said, args, kwargs)
        return await view.perform(operation, together)

    return perform
