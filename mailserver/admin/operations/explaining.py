"""Operations that tell why: where mail for an address goes, what became of a message, who did what.

Not here: the rules (`explain`), the log (`logs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailserver.admin import logs
from mailserver.admin.entries import AuditEntry, Explanation, LogLine, Story
from mailserver.admin.explain import Question, explain
from mailserver.admin.operation import ADDRESS, COUNT, FLAG, TEXT, Operation, Parameter, Scope
from mailserver.admin.operations.operators import OPERATOR
from mailserver.admin.operations.queue import QUEUE_ID
from mailserver.admin.refused import Forbidden, Refused
from mailserver.admin.roles import Role
from mailserver.mail.address import Address
from mailserver.queue.entry import is_id

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

_AUDITED = 100  # by default


async def explain_(
    call: Call, subject: str, sender: Address | None = None, submitted: bool = False, size: int = 0
) -> Explanation | Story:
    if "@" in subject or subject.lower() == "postmaster":
        question = Question(subject, sender, submitted, size)
        return await explain(call.config, question, call.operator, call.administration.pool)
    if not is_id(subject):
        raise Refused("expected an address, as a client says it to RCPT, or the id of a message")
    if call.operator.role not in (Role.OWNER, Role.AUDITOR) or not call.operator.of_server:
        raise Forbidden(f"{call.operator.name} may explain addresses alone")
    return Story(subject, tuple(await call.blocking(logs.tell, call.config, subject)))


def trace(call: Call, id: str) -> list[LogLine]:
    return logs.trace(call.config, id)


def audit(call: Call, operator: str | None = None, most: int = _AUDITED) -> list[AuditEntry]:
    return logs.audit(call.config, operator, most)


OPERATIONS = (
    Operation(
        "explain",
        "Why mail for an address goes where it goes; or what became of a message.",
        explain_,
        (
            Parameter("subject", TEXT, "An address as a client says it, or the id of a message."),
            Parameter("sender", ADDRESS, "Who sends it; else the null sender.", False, option=True),
            Parameter("submitted", FLAG, "As from somebody who has logged in.", False, option=True),
            Parameter("size", COUNT, "Octets of the message.", False, option=True),
        ),
        frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR}),
        Scope.VIEW,
    ),
    Operation(
        "trace",
        "All lines of the log that speak of a message.",
        trace,
        (Parameter("id", QUEUE_ID),),
        frozenset({Role.AUDITOR}),
    ),
    Operation(
        "audit",
        "Who asked for which operations, the last ones last.",
        audit,
        (
            Parameter("operator", OPERATOR, "Of this operator alone.", False, option=True),
            Parameter("most", COUNT, f"How many; {_AUDITED}, if not said.", False, option=True),
        ),
        frozenset({Role.AUDITOR}),
    ),
)
