"""Why mail for an address goes where it goes: every rule in the order in which it is tried, which decided.

The rules themselves are asked (`mta.routing`, `delivery.relays`), with a witness; nothing is decided here.
Not here: what became of a message (`story`), who may ask (`operations`).
"""

from __future__ import annotations

import secrets

from mailserver.admin.entries import ExplainedPlace, ExplainedStep, Explanation
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Operator
from mailserver.config import outgoing
from mailserver.config.model import Config
from mailserver.config.routes import routing, srs_key
from mailserver.delivery.relays import Relays
from mailserver.directory import Directory
from mailserver.directory.entries import Missing
from mailserver.mail.address import Address
from mailserver.mail.path import Foreign, PathError, Postmaster, forward_path
from mailserver.mail.reply import Reply
from mailserver.mail.srs import SECRET_OCTETS
from mailserver.mta.route import Asker, Leaves, Local, Tried
from mailserver.mta.routing import Mailboxes
from mailserver.pool import Pool


class Question:
    """What is asked: mail for a recipient, as RCPT has it, from `sender` (None: the null sender)."""

    def __init__(self, recipient: str, sender: Address | None, submitted: bool, size: int) -> None:
        self.path = _path(recipient)
        self.asker = Asker(sender, may_relay=submitted)
        self.size = size


async def explain(config: Config, question: Question, operator: Operator, pool: Pool) -> Explanation:
    """What the server would do, as far as it is the operator's business: other domains are left out.

    Raises Refused, Missing, Busy, OSError.
    """
    _require_seen(operator, question.path)
    directory = Directory(config.domains)
    rules = routing(config, directory, Mailboxes(config.maildirs), pool, _key(config.maildirs))
    tried: list[Tried] = []
    found = await rules.route(question.path, question.size, question.asker, tried.append)
    steps = [_step(one) for one in tried if _sees(operator, one.subject)]
    if isinstance(found, Reply):
        return Explanation(_text(question.path), str(found), (), tuple(steps))
    relays = Relays(outgoing.relays(config))
    places = []
    for place in found:
        if isinstance(place, Local):
            places.append(ExplainedPlace(str(place.address), "mailbox", ""))
        elif operator.of_server:
            way, further = _way_out(relays, place)
            places.append(ExplainedPlace(str(place.recipient), way, str(place.sender or "")))
            steps += further
    seen = [one for one in places if operator.sees(one.address.rpartition("@")[2])]
    return Explanation(_text(question.path), "", tuple(seen), tuple(steps))


def _way_out(relays: Relays, place: Leaves) -> tuple[str, list[ExplainedStep]]:
    steps = []
    for rule, subject, relay in relays.claims(place.sender, place.recipient):
        found = "there is none" if relay is None else f"is {relay.name}"
        steps.append(ExplainedStep(rule, subject, found, relay is not None, ()))
        if relay is not None:
            return f"relay {relay.name}", steps
    domain = place.recipient.domain
    steps.append(ExplainedStep("mail exchangers", domain, "are asked for in the DNS", True, ()))
    return f"mail exchangers of {domain}", steps


def _step(tried: Tried) -> ExplainedStep:
    leads_to = tuple(map(str, tried.leads_to))
    return ExplainedStep(tried.rule.value, _text(tried.subject), tried.found, tried.decides, leads_to)


def _text(path: Address | Postmaster | Foreign) -> str:
    if isinstance(path, Foreign):
        return path.text.removeprefix("<").removesuffix(">")
    return path.local if isinstance(path, Postmaster) else str(path)


def _path(text: str) -> Address | Postmaster | Foreign:
    try:
        path, parameters = forward_path(f"<{text}>")
    except PathError:
        parameters = {"": None}
    if parameters:
        raise Refused("expected an address, as a client says it to RCPT, or the id of a message")
    return path


def _sees(operator: Operator, path: Address | Postmaster | Foreign) -> bool:
    return operator.of_server or (isinstance(path, Address) and operator.sees(path.domain))


def _require_seen(operator: Operator, path: Address | Postmaster | Foreign) -> None:
    if not _sees(operator, path):
        raise Missing(f"no domain {path.domain}" if isinstance(path, Address) else "name an address of yours")


def _key(maildirs: str) -> bytes:
    """The key of the server; before its first start any will do, for no address was made with one yet."""
    try:
        return srs_key(maildirs)
    except FileNotFoundError:
        return secrets.token_bytes(SECRET_OCTETS)
    except ValueError:
        raise Refused("the key of forwarded mail's senders cannot be used; remove it for a new one") from None
