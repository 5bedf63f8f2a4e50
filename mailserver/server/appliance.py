"""The appliance: one server from start to stop. The only place that connects the parts.

Start: read the configuration, lock the state, open log, keys and ports, become the configured user, clean
up after a crash, serve. While it runs, SIGHUP or a changed file reloads, SIGUSR1 reopens the log, SIGTERM
and SIGINT drain and stop. Not here: what is spoken (`server.services`), arguments (`cli.serve`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

import mailserver
from mailserver import maillog
from mailserver.config.load import ConfigError, load
from mailserver.config.model import Config, Listener
from mailserver.config.overrides import Overrides
from mailserver.mailbox.steady import SteadyClock
from mailserver.mailbox.sweep import Sweeper
from mailserver.pool import Busy
from mailserver.server import notify, privileges
from mailserver.server.privileges import PrivilegeError, drop
from mailserver.server.services import REFUSALS, Core, Factory, Services, limits
from mailserver.server.state import State, StateError
from mailserver.server.upkeep import SWEEP_INTERVAL, WATCH_INTERVAL, Watch, sweep
from mailserver.transport import listener as transport
from mailserver.transport.endpoint import EndpointError, parse
from mailserver.transport.listener import Gate
from mailserver.transport.tls import Certificates

LOOPBACK = ("127.", "::1", "localhost")
# What a running server cannot change: it would be another server.
FIXED = ("maildirs", "user", "group", "allow_root", "log_file", "pid_file")


class StartError(Exception):
    """The server cannot start; the text is one line for the operator."""


def serve(directory: str, overrides: Overrides) -> None:
    """Serve the configuration in `directory` until told to stop. Raises ConfigError, StartError."""
    watch = Watch(directory)
    config = overrides.apply(load(directory))
    _check_user(config)
    log = _open_log(config)
    try:
        appliance = Appliance(config, lambda: overrides.apply(load(directory)), watch)
        appliance.prepare()
        log.start()
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            runner.run(appliance.serve())
    except (StateError, EndpointError, PrivilegeError) as error:
        raise StartError(str(error)) from error
    finally:
        _remove_pid(config.pid_file)
        log.close()


class Appliance:
    """One server. `prepare` does what needs root, then gives root up; `serve` is the rest of its life."""

    def __init__(self, config: Config, reread: Callable[[], Config], watch: Watch) -> None:
        self.config = config
        self.state = State(config.maildirs)
        self.certificates = Certificates(config.tls, config.hostname)
        self._reread = reread
        self._watch = watch
        self._listeners: dict[Listener, transport.Listener] = {}
        self._factories: dict[Listener, Factory] = {}
        self._inherited = notify.inherited()
        self._notifier = notify.Notifier()
        self._stop = asyncio.Event()
        self._reload_asked = asyncio.Event()

    # -- start -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything before the loop runs. Raises StateError, EndpointError, PrivilegeError."""
        account = self._account()
        made = self.state.prepare()
        self.state.lock()
        if account is not None:
            for path in [*made, self.state.lock_file]:  # sockets take after their directory
                os.chown(path, *account)
        self._report_certificates()
        self._gate = Gate(limits(self.config))
        for listener in self.config.listeners:
            self._listeners[listener] = opened = self._listener(listener)
            opened.open(self._inherited)
        _write_pid(self.config.pid_file)
        if account is not None:
            drop(self.config.user or "", self.config.group)
        self.state.check_writable()
        _check_readable(self.config.domains)
        self.state.recover()

    def _account(self) -> tuple[int, int] | None:
        """Whom to become; None to stay who we are."""
        if self.config.user is None or os.geteuid() != 0:
            return None
        return privileges.account(self.config.user, self.config.group)

    def _listener(self, listener: Listener) -> transport.Listener:
        """Not bound yet. The factory is looked up at each connection: a reload may have replaced it."""
        endpoint = parse(listener.endpoint)
        return transport.Listener(
            endpoint,
            lambda peer: self._factories[listener](peer),
            gate=self._gate,
            certificates=self.certificates if endpoint.tls else None,
            proxy_from=listener.proxy_from,
            refusal=REFUSALS[listener.protocol],
        )

    def _report_certificates(self) -> None:
        for problem in self.certificates.reload():
            maillog.event("certificate-problem", problem=problem)

    # -- life ------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Accept, until SIGTERM or SIGINT; then drain."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_unforeseen)
        self._core = Core(self.config, self.state.staging, self.certificates, self._gate)
        self._serve_with(self.config)
        for opened in self._listeners.values():
            opened.start()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        loop.add_signal_handler(signal.SIGUSR1, maillog.reopen)
        gc.freeze()  # what is there now stays: the collector need not look at it again and again
        maillog.event(
            "serving", version=mailserver.__version__, listeners=" ".join(x.endpoint for x in self._listeners)
        )
        self._notifier.ready()
        chores = [
            asyncio.ensure_future(chore)
            for chore in (self._reloading(), self._watching(), self._sweeping(), self._notifier.watch())
        ]
        await self._stop.wait()
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await self._shut_down()

    def _serve_with(self, config: Config) -> None:
        services = Services(config, self._core)
        self._factories = {listener: services.factory(listener) for listener in self._listeners}
        self._services = services

    async def _shut_down(self) -> None:
        """Take nothing new, let sessions end, finish what was accepted."""
        self._notifier.stopping()
        maillog.event("stopping", connections=len(self._core.connections))
        for opened in self._listeners.values():
            opened.close()
        cut = await self._core.connections.drain(self.config.limits.drain_timeout)
        await asyncio.get_running_loop().run_in_executor(None, self._core.close)
        maillog.event("stopped", cut=cut, **maillog.counters())

    # -- changes ---------------------------------------------------------------------------------

    async def _reloading(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            self._notifier.reloading()
            try:
                await self._reload()
            except Busy:
                maillog.event("reload-put-off", reason="busy")
                await asyncio.sleep(WATCH_INTERVAL)
                self._reload_asked.set()
            self._notifier.ready()

    async def _reload(self) -> None:
        """Take over what the files say now; what is wrong in them is logged, and the old values stay."""
        await self._core.storage.run(self._report_certificates)
        try:
            fresh = await self._core.storage.run(self._reread)
        except ConfigError as error:
            maillog.event("config-refused", problem=str(error))
            return
        fixed = [name for name in FIXED if getattr(fresh, name) != getattr(self.config, name)]
        if fixed:
            maillog.event("config-needs-restart", keys=" ".join(fixed))
            fresh = replace(fresh, **{name: getattr(self.config, name) for name in fixed})
        opened = await self._change_listeners(fresh)
        self._gate.limits = limits(fresh)
        self.config = fresh
        self._serve_with(fresh)
        for listener in opened:
            listener.start()
        maillog.event("reloaded", listeners=" ".join(x.endpoint for x in self._listeners))

    async def _change_listeners(self, fresh: Config) -> list[transport.Listener]:
        """Close what is no longer wanted, bind what is new; returns the new ones, not started yet."""
        added = []
        for gone in set(self._listeners) - set(fresh.listeners):
            self._listeners.pop(gone).close()
        for new in fresh.listeners:
            if new in self._listeners:
                continue
            opened = self._listener(new)
            try:
                await self._core.storage.run(opened.open, self._inherited)  # names may have to be resolved
            except EndpointError as error:
                maillog.event("listener-failed", problem=str(error))
            else:
                self._listeners[new] = opened
                added.append(opened)
        return added

    async def _watching(self) -> None:
        """Ask for a reload when the settings or a certificate were changed by hand."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            with contextlib.suppress(Busy):
                if await self._core.storage.run(self._watch.changed):
                    self._reload_asked.set()

    async def _sweeping(self) -> None:
        clock = SteadyClock(self.state.sweep_file)
        while True:
            mailboxes = partial(self._services.mailboxes.every, self._core.directory)
            sweeper = Sweeper(mailboxes, self.config.trash.retention, clock)
            with contextlib.suppress(Busy):  # the next pass finds what this one left
                removed = await sweep(sweeper, self._core.storage)
                maillog.event("swept", files_removed=removed)
            await asyncio.sleep(SWEEP_INTERVAL)


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where the platform has it: twice the messages of asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no session caught: kind only, for the log is no place for a client's data."""
    error = context.get("exception")
    maillog.count("loop.unforeseen")
    maillog.event("unforeseen", error=type(error).__name__ if error else "none", what=context.get("message"))


def _check_user(config: Config) -> None:
    """Serve as root only if told to; a developer's machine, loopback and UNIX sockets alone, is warned."""
    if os.geteuid() != 0 or config.user is not None or config.allow_root:
        return
    open_to_others = [
        listener.endpoint
        for listener in config.listeners
        if (endpoint := parse(listener.endpoint)).kind == "tcp" and not endpoint.target.startswith(LOOPBACK)
    ]
    if open_to_others:
        raise StartError(
            f"started as root, but no user to become: set user in {config.file} or give --user "
            f"(or allow_root = true); {open_to_others[0]} is open to other machines"
        )


def _open_log(config: Config) -> maillog.MailLog:
    try:
        return maillog.open_log(config.log_file)
    except OSError as error:
        raise StartError(f"{config.log_file}: cannot write the log: {error.strerror}") from error


def _write_pid(path: str | None) -> None:
    if path is None:
        return
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise StateError(f"{path}: cannot write the process number: {error.strerror}") from error


def _remove_pid(path: str | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):  # its directory may be root's
            os.unlink(path)


def _check_readable(path: str) -> None:
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise StateError(
            f"{path}: not readable for the user the server runs as (uid {os.geteuid()}): chown it"
        )
