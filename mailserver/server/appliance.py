"""The appliance: one server from start to stop. The only place that connects the parts.

Start: read the configuration, lock the state, open log, keys and ports, become the configured user, clean
up after a crash; then the supervisor forks workers, and they serve.
Not here: what is spoken (`services`), workers' lives (`worker`, `supervisor`), arguments (`cli.serve`).
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial

from mailserver import maillog
from mailserver.admin.control import path_of
from mailserver.config.confirm import restore_unconfirmed
from mailserver.config.editing import EditRefused
from mailserver.config.load import ConfigError, load
from mailserver.config.model import Config, Listener
from mailserver.config.overrides import Overrides
from mailserver.config.values import EndpointText
from mailserver.config.versioned import TakenBack
from mailserver.server import console, notify
from mailserver.server.channel import Told
from mailserver.server.companion import Companion
from mailserver.server.confirming import report as report_taken_back
from mailserver.server.pid_file import PidFile
from mailserver.server.privileges import PrivilegeError, account_of, drop
from mailserver.server.services import REFUSALS, limits
from mailserver.server.settled import needing_restart, settled
from mailserver.server.state import State, StateError
from mailserver.server.supervisor import FamilyError, Refreshed, Supervisor
from mailserver.server.upkeep import Watch
from mailserver.server.worker import QUEUE, Factories, Grounds, Shared
from mailserver.transport import listener as transport
from mailserver.transport.endpoint import Endpoint, EndpointError, parse
from mailserver.transport.gate import Gate
from mailserver.transport.tls import Certificates

SPARE_DESCRIPTORS = 500  # for mailboxes, the queue and ourselves
LEAVING = 3.0  # seconds in which the console lets go of endpoints that become the mail's
AGAIN = 0.02  # seconds between tries to have them
NEWS = 10.0  # seconds for which a problem is part of the answer to who changed something


class StartError(Exception):
    """The server cannot start; the text is one line for the operator."""


def serve(directory: str, overrides: Overrides) -> None:
    """Serve the configuration in `directory` until told to stop. Raises ConfigError, StartError."""
    watch = Watch(directory)
    taken_back = _take_back(directory)
    config = overrides.apply(load(directory))
    _check_user(config)
    log = _open_log(config)
    if taken_back is not None:
        report_taken_back(taken_back)

    def reread() -> Config:
        return overrides.apply(load(directory))

    appliance = Appliance(config, reread)
    log.tap = appliance.shared.tap.offer
    try:
        grounds = appliance.prepare()
        companion = Companion(partial(console.run, reread))
        supervisor = Supervisor(grounds, appliance.refresh, companion, notify.Notifier())
        supervisor.run(log, watch)
    except (StateError, EndpointError, PrivilegeError, FamilyError) as error:
        raise StartError(str(error)) from error
    finally:
        appliance.unbind()
        appliance.pid_file.remove()
        log.close()


class Appliance:
    """Makes the grounds on which workers serve, at the start and for each new configuration."""

    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        self._reread = reread
        self._factories: Factories = {}
        self.shared = Shared(notify.inherited())
        self.pid_file = PidFile()
        self._own: set[Listener] = set()
        self._state = State(config.maildirs)
        self._gate = Gate(limits(config))
        self._certificates = Certificates(config.tls, config.hostname)
        self._grounds = self._new_grounds(config)
        self._problems: dict[str, float] = {}  # of the last look, and since when there are

    def prepare(self) -> Grounds:
        """Everything before the first fork; at its end root's rights are given up.

        Raises StateError, EndpointError, PrivilegeError.
        """
        grounds, config = self._grounds, self._grounds.config
        account = account_of(config)
        made = self._state.prepare()
        self._state.lock()
        if account is not None:
            for path in [*made, self._state.lock_file]:  # sockets take after their directory
                os.chown(path, *account)
        self._problems = dict.fromkeys(self._report_certificates(), -math.inf)  # no change is to blame
        for at in _served(config):
            grounds.listeners[at] = self._listener(at)
            grounds.listeners[at].open(self.shared.inherited)
        self._open_own(grounds)
        self._write_pid(config)
        if account is not None:
            drop(config.user or "", config.group)
        _allow_descriptors(config.limits.connections)
        if os.geteuid() == 0:
            maillog.event("serving-as-root")
        self._state.check_writable()
        _check_readable(config.domains)
        self._state.recover()
        return grounds

    def unbind(self) -> None:
        """Let go of all listening sockets."""
        self._grounds.unbind()

    def refresh(self, before: Grounds) -> Refreshed:
        """Grounds for what the files say now, after those of `before`; what is wrong is in the log, too.

        The problem told is one that has not been there for long: it may be of the last change's making.
        """
        problems = self._report_certificates()
        try:
            config = self._reread()
        except ConfigError as error:
            maillog.event("config-refused", problem=error)
            return Refreshed(None, str(error))
        fixed = needing_restart(config, before.config)
        for key, problem in self._unmoved(config):
            fixed.append(key)
            problems.append(problem)
        if fixed:
            maillog.event("config-needs-restart", keys=" ".join(fixed))
        fresh = self._new_grounds(settled(config, before.config))
        problems += self._open_listeners(fresh, before)
        fresh.queue = before.queue
        fresh.listeners |= {at: it for at, it in before.listeners.items() if at in self._own}
        self._gate.limits = limits(config)
        now = time.monotonic()
        self._problems = {problem: self._problems.get(problem, now) for problem in problems}
        return Refreshed(fresh, "; ".join(p for p, since in self._problems.items() if now - since < NEWS))

    def _unmoved(self, config: Config) -> Iterator[tuple[str, str]]:
        """Take log and process number where the settings have them now; what cannot be there, and why."""
        for key, path, move in (
            ("log_file", config.log_file, maillog.move),
            ("pid_file", config.pid_file, self.pid_file.move),
        ):
            try:
                move(path)
            except OSError as error:
                yield key, f"{path}: cannot be written: {error.strerror}"

    def _write_pid(self, config: Config) -> None:
        try:
            self.pid_file.move(config.pid_file)
        except OSError as error:
            problem = f"{config.pid_file}: cannot write the process number: {error.strerror}"
            raise StateError(problem) from error

    def _open_listeners(self, fresh: Grounds, before: Grounds) -> list[str]:
        """Keep those that stay, bind the new ones. An endpoint that cannot be bound is left out: why."""
        problems = []
        here = {at.endpoint: listener for at, listener in before.listeners.items()}
        until = time.monotonic() + (LEAVING if self._let_go(before.config, fresh.config) else 0.0)
        for at in _served(fresh.config):
            if at in before.listeners:
                fresh.listeners[at] = before.listeners[at]
                continue
            listener = self._listener(at)
            if at.endpoint in here:
                listener.take_over(here[at.endpoint])
            else:
                try:
                    self._open(listener, until)
                except EndpointError as error:
                    maillog.event("listener-failed", problem=error)
                    problems.append(str(error))
                    continue
            fresh.listeners[at] = listener
        return problems

    def _let_go(self, before: Config, fresh: Config) -> bool:
        """Have the console let go of what is not its own any more; whether there is such a thing."""
        gone = _of_console(before) - _of_console(fresh)
        if gone:
            self.shared.channel.tell(Told(leave=tuple(sorted(gone))))
        return bool(gone)

    def _open(self, listener: transport.Listener, until: float) -> None:
        """Bind; the console may need a moment to let go. Raises EndpointError."""
        while True:
            try:
                listener.open(self.shared.inherited)
                return
            except EndpointError:
                if time.monotonic() >= until:
                    raise
                time.sleep(AGAIN)

    def _new_grounds(self, config: Config) -> Grounds:
        return Grounds(config, self._state, self._certificates, self._gate, self._factories, self.shared)

    def _listener(self, at: Listener) -> transport.Listener:
        """Not bound yet. Its factory is looked up at each connection: it is the worker's."""
        endpoint = parse(at.endpoint)
        return transport.Listener(
            endpoint,
            lambda peer: self._factories[at](peer),
            gate=self._gate,
            certificates=self._certificates if endpoint.tls else None,
            proxy_from=at.proxy_from,
            refusal=REFUSALS[at.protocol],
        )

    def _open_own(self, grounds: Grounds) -> None:
        """The sockets of the state directory. It serves without them where their path is too long."""
        queue = transport.Listener(
            Endpoint("unix", path_of(self._state.root)),
            lambda peer: self._factories[QUEUE](peer),
            gate=self._gate,
        )
        try:
            queue.open()
            grounds.queue = queue
            at = Listener(
                protocol="submission", endpoint=EndpointText(f"unix:{self._state.submission_socket}")
            )
            grounds.listeners[at] = self._listener(at)
            grounds.listeners[at].open()
            self._own.add(at)
        except (EndpointError, ValueError) as error:
            maillog.event("listener-failed", problem=error)

    def _report_certificates(self) -> list[str]:
        problems = self._certificates.reload()
        for problem in problems:
            maillog.event("certificate-problem", problem=problem)
        return problems


def _take_back(directory: str) -> TakenBack | None:
    """A change that nobody had confirmed when the server ended. Raises StartError."""
    try:
        return restore_unconfirmed(directory)
    except EditRefused as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"{directory}: cannot take an unconfirmed change back: {error.strerror}") from error


def _served(config: Config) -> list[Listener]:
    """The listeners of the workers; those of operators are the console's."""
    return [at for at in config.listeners if at.protocol not in console.PROTOCOLS and not at.paused]


def _of_console(config: Config) -> set[str]:
    """Endpoints of operators."""
    return {str(at.endpoint) for at in config.listeners if at.protocol in console.PROTOCOLS and not at.paused}


def _check_user(config: Config) -> None:
    """Serve as root only if told to; a developer's machine, loopback and UNIX sockets alone, is warned."""
    if os.geteuid() != 0 or config.user is not None or config.allow_root:
        return
    open_to_others = [
        listener.endpoint
        for listener in config.listeners
        if (endpoint := parse(listener.endpoint)).kind == "tcp" and not endpoint.is_local
    ]
    if open_to_others:
        raise StartError(
            f"started as root, but no user to become: set user in {config.file} or give --user "
            f"(or allow_root = true); {open_to_others[0]} is open to other machines"
        )


def _allow_descriptors(connections: int) -> None:
    """As many open files as the system lets us have; a line in the log if that is too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < connections + SPARE_DESCRIPTORS:
        maillog.event("descriptors-few", limit=most, connections=connections)


def _open_log(config: Config) -> maillog.MailLog:
    try:
        return maillog.open_log(config.log_file, account_of(config))
    except OSError as error:
        raise StartError(f"{config.log_file}: cannot write the log: {error.strerror}") from error
    except PrivilegeError as error:
        raise StartError(str(error)) from error


def _check_readable(path: str) -> None:
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise StateError(
            f"{path}: not readable for the user the server runs as (uid {os.geteuid()}): chown it"
        )
