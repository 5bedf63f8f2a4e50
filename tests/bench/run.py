"""The benchmark: this server, Postfix + Dovecot, and aiosmtpd alone, side by side on loopback.

    python tests/bench/run.py [--short] [--cells in-10,pop3] [--targets mailserver,...] [--rounds N]

Figures never make it fail; a message lost, or an answer of this server that is not right, does. What it
means and how to read it: docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import loads
import plan
import rounds
import sync_trace
from cells import Cell
from report import Report, machine
from rounds import Failure
from target import Target, TargetFailed, Unavailable
from target_aiosmtpd import Aiosmtpd
from target_mailserver import Mailserver
from target_pair import Pair
from target_sketch import Sketch

TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in (Mailserver, Pair, Aiosmtpd, Sketch)}
REFERENCE = Pair.name
OURS = Mailserver.name
USUAL = [Mailserver.name, Pair.name, Aiosmtpd.name]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a reduced set in about a minute, as in CI")
    parser.add_argument(
        "--cells", type=_names, metavar="A,B", help=f"of {', '.join(c.id for c in plan.FULL)}"
    )
    parser.add_argument(
        "--targets",
        type=_names,
        metavar="A,B",
        default=USUAL,
        help=f"of {', '.join(TARGETS)}; all but sketch",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 3, with --short 2")
    parser.add_argument("--json", metavar="FILE", help="also write every sample there")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table there, as Markdown")
    parser.add_argument(
        "--state", metavar="DIR", default="/var/tmp", help="where mail rests meanwhile (%(default)s)"
    )
    parser.add_argument(
        "--trace", action="store_true", help="show and check the order of syncs before the 250"
    )
    arguments = parser.parse_args()
    for name in set(arguments.cells or ()) - {cell.id for cell in plan.FULL}:
        parser.error(f"no such cell: {name}")
    for name in set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {name}")
    return arguments


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _cells(arguments: argparse.Namespace) -> list[Cell]:
    cells = plan.SHORT if arguments.short else plan.FULL
    wanted = arguments.cells or (plan.SHORT_DEFAULT if arguments.short else [cell.id for cell in cells])
    return [cell for cell in cells if cell.id in wanted]


@contextlib.contextmanager
def _state(parent: str) -> Iterator[str]:
    """A directory for everything, removed at the end."""
    path = tempfile.mkdtemp(prefix="mail-bench-", dir=parent)
    os.chmod(path, 0o755)  # Postfix and Dovecot pass through it as users of their own
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _running(names: Sequence[str], state: str) -> Iterator[tuple[list[Target], list[Failure]]]:
    """The targets that run here, and those that should but did not start; stopped at the end in any case."""
    targets: list[Target] = []
    failures: list[Failure] = []
    try:
        for name in names:
            directory = os.path.join(state, name)
            os.mkdir(directory)
            try:
                target = TARGETS[name](directory)
                target.configure()
                targets.append(target)
                target.start()
            except Unavailable as error:
                _say(f"{name} left out: {error}")
            except TargetFailed as error:
                _say(str(error))
                failures.append(Failure(name, "start", str(error)))
                targets.pop().stop()
        yield targets, failures
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
        for target in targets:
            target.stop()


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def _measure(arguments: argparse.Namespace) -> int:
    loads.smtp_source()
    with _state(arguments.state) as state:
        about = machine(state)
        if about["file system"].startswith(("tmpfs", "overlay")):
            _say(f"{arguments.state} is {about['file system']}: syncs may cost nothing there; see --state")
        if os.getloadavg()[0] > 0.5:
            _say(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures will say little")
        with _running(arguments.targets, state) as (targets, failures):
            number = arguments.rounds or (2 if arguments.short else 3)
            results = rounds.run(_cells(arguments), targets, number, _say)
            results.failures += failures
            if not results.samples and not results.failures:
                _say("none of these targets takes part in any of these cells")
                return 2
            report = Report(results, about, [target.name for target in targets], REFERENCE)
        _tell(report, arguments)  # before the mail of all rounds is removed, which takes minutes
    return int(any(failure.target == OURS for failure in results.failures))


def _tell(report: Report, arguments: argparse.Namespace) -> None:
    print(report.text(), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report.json(), file, indent=1)
    if arguments.markdown:
        with open(arguments.markdown, "w") as file:
            file.write(report.markdown() + "\n")


def _trace(arguments: argparse.Namespace) -> int:
    """Every named target that is one process family of Python; by default this server."""
    names = arguments.targets if arguments.targets != USUAL else [OURS]
    with _state(arguments.state) as state:
        for name in names:
            directory = os.path.join(state, name)
            os.mkdir(directory)
            if not sync_trace.show(TARGETS[name](directory), print):
                return 1
    return 0


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends like Ctrl-C: with everything stopped
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    arguments = _arguments()
    try:
        return _trace(arguments) if arguments.trace else _measure(arguments)
    except (TargetFailed, Unavailable) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
