"""Looks at a whole configuration directory and tells all that is wrong with it.

Reads every file, so it is for an operator's command, never for a server at work.
Not here: the forms of the files (`load`, `directory`), repairing anything.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator

from mailserver.config import access, mail_places, outgoing
from mailserver.config.aliases import astray
from mailserver.config.load import FILE, Problem, read
from mailserver.config.model import Config
from mailserver.delivery.relay import SecretError, read_secret
from mailserver.directory import inspection
from mailserver.directory.database import Directory
from mailserver.directory.entries import Unavailable
from mailserver.transport.tls import Certificates

Progress = Callable[[int, int], None]
_ENTRIES = {FILE, "domains", "tls", "operators", "secrets"}
_MAX_PROBLEMS = 1000


def check(directory: str, progress: Progress = lambda done, total: None) -> list[Problem]:
    """All problems below `directory`, at most about a thousand; none means that a server can use it."""
    config, found = read(directory)
    for problem in _below(directory, config, progress):
        found.append(problem)
        if len(found) >= _MAX_PROBLEMS:
            found.append(Problem(directory, "", "more problems than are listed here"))
            break
    return found


def _below(directory: str, config: Config | None, progress: Progress) -> Iterator[Problem]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        yield Problem(directory, "", f"cannot be read: {error.strerror}")
        return
    placed_here = _placed(config) if config else set()
    for name in names:
        path = os.path.join(directory, name)
        if name not in _ENTRIES and not name.startswith(".") and os.path.abspath(path) not in placed_here:
            yield Problem(path, "", "not part of a configuration")
    delimiter = config.addresses.recipient_delimiter if config else ""
    yield from _database(os.path.join(directory, "domains"), delimiter, progress)
    if config is not None:
        yield from _default_domain(config)
        yield from _mail_places(config)
        yield from _certificates(config)
        yield from _relays(config)
        yield from _accounts(config)
        yield from access.unwritable(config)


def _placed(config: Config) -> set[str | None]:
    """What settings may put into the directory."""
    of_relays = {path for relay in config.relays for path in (relay.secret_file, relay.authorities)}
    return {config.maildirs, config.log_file, config.pid_file, *of_relays}


def _database(root: str, delimiter: str, progress: Progress) -> Iterator[Problem]:
    directory = Directory(root)
    try:
        for fault in inspection.problems(directory):
            yield Problem(fault.file, "", fault.reason)
        for name in sorted(directory.domains()):
            yield from astray(directory, name, delimiter, progress)
    except Unavailable:
        return  # a file that the inspection has told about
    except OSError as error:
        yield Problem(error.filename or root, "", f"cannot be read: {error.strerror}")
        return
    yield from access.readable_by_others(root)


def _default_domain(config: Config) -> Iterator[Problem]:
    if config.default_domain and config.default_domain not in set(_domains(config)):
        yield Problem(config.file, "default_domain", f"no domain {config.default_domain} below domains/")


def _mail_places(config: Config) -> Iterator[Problem]:
    directory = Directory(config.domains)
    for name in _domains(config):
        try:
            domain = directory.domain(name)
        except Unavailable:
            continue  # told already
        if domain is None or domain.maildirs is None:
            continue
        if problem := mail_places.trouble(name, domain.maildirs, directory, config.maildirs):
            yield Problem(os.path.join(domain.directory, "domain.toml"), "maildirs", problem)


def _domains(config: Config) -> Iterator[str]:
    try:
        yield from Directory(config.domains).domains()
    except OSError:
        return  # told already


def _certificates(config: Config) -> Iterator[Problem]:
    if not os.path.isdir(config.tls):
        yield Problem(config.tls, "", "no such directory; `serve` makes a self-signed certificate there")
        return
    for text in Certificates(config.tls).reload():
        yield Problem("", "", text)
    for name in sorted(os.listdir(config.tls)):
        key = os.path.join(config.tls, name, "privkey.pem")
        if access.is_open_to_others(key):
            yield Problem(key, "", "readable by every user of this machine; expected mode 600")


def _relays(config: Config) -> Iterator[Problem]:
    """Secrets and authorities that could not be used when mail is to be sent."""
    for relay in config.relays:
        if relay.secret_file is not None:
            if not relay.user:
                key = f"relay[{relay.name}].user"
                yield Problem(config.file, key, "missing: whose password is in secret_file?")
            try:
                read_secret(relay.secret_file)
            except SecretError as error:
                yield Problem(relay.secret_file, "", str(error))
        if relay.authorities is not None:
            try:
                ssl.create_default_context(cafile=relay.authorities)
            except OSError:
                yield Problem(relay.authorities, "", "expected certificates of authorities in PEM form")


def _accounts(config: Config) -> Iterator[Problem]:
    for account, _ in config.submission.accounts:
        if outgoing.uid_of(account) is None:
            yield Problem(config.file, "submission.accounts", f"no account {account} on this machine")
