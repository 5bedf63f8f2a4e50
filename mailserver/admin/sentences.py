"""What people are told of an operation in a sentence: what it did, and what it is about to destroy.

For all front ends alike; values are as JSON has them. Operations without a sentence show their value.
Not here: tables and records (`console.tables`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from mailserver.admin.server import NO_SERVER

Given = Mapping[str, Any]


def outcome(words: str, given: Given, result: Any) -> list[str]:
    """What an operation has done, in lines; nothing where its value says it."""
    sentence = _DONE.get(words)
    return [] if sentence is None else sentence(given, result)


def question(words: str, given: Given) -> str:
    """What a person is asked before an operation that destroys something."""
    ask = _ASKED.get(words)
    return f"{words.capitalize()}?" if ask is None else ask(given)


def number(count: int, word: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _added_user(given: Given, result: Any) -> list[str]:
    """With what a namesake may have left: never taken over in silence."""
    lines = [f"{result['address']} added"]
    if result["messages"]:
        lines.append(f"the mailbox was there already, with {number(result['messages'], 'message')}")
    aside = (f"mail of a removed user of this name lies aside in {path}" for path in result["set_aside"])
    return [*lines, *aside]


def _removed_user(given: Given, result: Any) -> list[str]:
    fates = {"kept": f"the mail is kept in {result['kept_at']}", "deleted": "the mail is deleted"}
    lines = [f"{result['address']} removed; {fates.get(result['mail'], 'there was no mailbox')}"]
    return [*lines, *(f"{name} still leads there" for name in result["still_led_to"])]


def _added_alias(given: Given, result: Any) -> list[str]:
    return [f"{result['address']} added", *_nobody(given, result)]


def _nobody(given: Given, result: Any) -> list[str]:
    """Mail is led to an address of ours that nobody has."""
    return [f"{target} is neither a user nor an alias yet" for target in result["unknown"]]


def _added_domain(given: Given, result: Any) -> list[str]:
    return [f"{result['domain']} added; give it users with `user add`", *_nobody(given, result)]


def _changed_domain(given: Given, result: Any) -> list[str]:
    return [f"{result['domain']} changed", *_nobody(given, result)]


def _removed_domain(given: Given, result: Any) -> list[str]:
    users = f", and {number(len(result['users']), 'user')}" if result["users"] else ""
    kept = sorted({os.path.dirname(user["kept_at"]) for user in result["users"] if user["kept_at"]})
    return [f"{result['domain']} removed{users}", *(f"mail is kept in {path}" for path in kept)]


def _edited(given: Given, result: Any) -> list[str]:
    """What became of a change of the configuration, and what is still to be done."""
    if not result["changed"]:
        return ["it is so already"]
    version = f"version {result['number']} of the configuration is"
    if not result["live"]:
        lines = [f"{version} written; {NO_SERVER}"]
    elif result["needs_restart"]:
        lines = [f"written; counts after a restart: {', '.join(result['needs_restart'])}"]
    else:
        lines = [f"{version} in force"]
    if given.get("confirm"):
        when = f"in {given['confirm']}" if result["live"] else "when the server starts"
        lines.append(f"it goes back {when} unless you say: config confirm")
    return lines


def _messages(done: str, key: str = "done") -> Callable[[Given, Any], list[str]]:
    return lambda given, result: [f"{number(result[key], 'message')} {done}"]


def _about(text: str) -> Callable[[Given, Any], list[str]]:
    """A sentence made of what was given and what came of it."""
    return lambda given, result: [text.format_map({**given, **(result if isinstance(result, dict) else {})})]


def _whose(given: Given) -> str:
    """Users do not name themselves."""
    return f" of {given['address']}" if "address" in given else ""


_EDITS = (
    *(f"config {verb}" for verb in ("set", "unset", "rollback")),
    *(f"listener {verb}" for verb in ("add", "pause", "resume", "remove")),
    *(f"relay {verb}" for verb in ("add", "remove")),
)

_DONE: dict[str, Callable[[Given, Any], list[str]]] = {
    "domain add": _added_domain,
    "domain set": _changed_domain,
    "domain remove": _removed_domain,
    "user add": _added_user,
    "user passwd": _about("password of {address} set"),
    "user remove": _removed_user,
    "alias add": _added_alias,
    "alias remove": _about("{address} removed"),
    "trash restore": _messages("restored", "restored"),
    "trash purge": _messages("removed for good", "purged"),
    "queue retry": _messages("due now"),
    "queue hold": _messages("held"),
    "queue release": _messages("released"),
    "queue drop": _messages("removed for good"),
    "operator passwd": _about("password of {name} set"),
    "operator remove": _about("{name} removed"),
    **dict.fromkeys(_EDITS, _edited),
    "config confirm": _about("confirmed: it stays"),
    "session close": _about("session {id} told to end"),
    "reload": _about("the server serves with what the files say"),
    "drain": _about("the server stops when its sessions have ended"),
    "stop": _about("the server stops"),
}


def _which(given: Given) -> str:
    return "all messages" if given.get("all") else number(len(given.get("ids", ())), "message")


def _ask_domain(given: Given) -> str:
    fate = f" with its users ({given.get('mail', 'keep')} their mail)" if given.get("with_users") else ""
    return f"Remove {given['domain']} and its aliases{fate}?"


_ASKED: dict[str, Callable[[Given], str]] = {
    "domain remove": _ask_domain,
    "user remove": lambda given: f"Remove {given['address']} and {given.get('mail', 'keep')} the mail?",
    "alias remove": lambda given: f"Remove {given['address']}?",
    "operator remove": lambda given: f"Remove the operator {given['name']}?",
    "trash purge": lambda given: f"Remove deleted messages{_whose(given)} for good?",
    "queue drop": lambda given: f"Remove {_which(given)} of the queue for good?",
    "stop": lambda given: "Stop the server?",
    "drain": lambda given: "Stop the server when its sessions have ended?",
}
