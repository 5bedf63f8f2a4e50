"""Real name servers on loopback: Knot DNS has the zones (signed or not), Unbound validates what it asks Knot.

Zones are those below `test.`; what a test needs in them it gives as text.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import programs

KNOT = """\
server:
  rundir: {state}
  listen: 127.0.0.1@{port}
database:
  storage: {state}/db
log:
  - target: stderr
    any: info
zone:
"""
ZONE = "  - domain: {zone}\n    file: {state}/{zone}.zone\n    dnssec-signing: {signed}\n"
SOA = "@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n"
UNBOUND = """\
server:
  directory: "{state}"
  chroot: ""
  username: ""
  pidfile: ""
  interface: 127.0.0.1@{port}
  do-not-query-localhost: no
  do-daemonize: no
  use-syslog: no
  log-time-ascii: no
  verbosity: 1
  val-log-level: 1
  local-zone: "test." nodefault
  module-config: "validator iterator"
remote-control:
  control-enable: no
"""


class Names(NamedTuple):
    """Ports on 127.0.0.1: `authority` is Knot, `validator` Unbound."""

    authority: int
    validator: int


def free_port() -> int:
    """A port that is free for UDP and TCP just now."""
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                return int(udp.getsockname()[1])
    raise AssertionError("no free port")


@contextlib.contextmanager
def knot(zones: Mapping[str, str], signed: frozenset[str] = frozenset()) -> Iterator[tuple[int, Path]]:
    """Knot with these zones (texts without SOA and NS; an impossible one is served as failing)."""
    programs.need("knotd")
    state = Path(tempfile.mkdtemp(prefix="names-"))
    (state / "db").mkdir()
    port = free_port()
    text = KNOT.format(state=state, port=port)
    for zone, records in zones.items():
        (state / f"{zone}.zone").write_text(f"$ORIGIN {zone}.\n" + SOA + records)
        text += ZONE.format(zone=zone, state=state, signed="on" if zone in signed else "off")
    (state / "knot.conf").write_text(text)
    try:
        with programs.Daemon(["knotd", "-c", str(state / "knot.conf")]) as daemon:
            for zone in signed:
                daemon.says(rf"\[{zone}\.\] DNSSEC, successfully signed")
            daemon.says("server started")
            yield port, state
    finally:
        shutil.rmtree(state, ignore_errors=True)


@contextlib.contextmanager
def names(
    zones: Mapping[str, str], signed: frozenset[str], bogus: frozenset[str] = frozenset()
) -> Iterator[Names]:
    """Knot, and Unbound before it that trusts the keys of the `signed` zones and the wrong ones of `bogus`."""
    programs.need("unbound")
    with knot(zones, signed | bogus) as (authority, state):
        port = free_port()
        text = UNBOUND.format(state=state, port=port)
        for zone in signed | bogus:
            text += f'server:\n  trust-anchor: "{_anchor(state, zone, wrong=zone in bogus)}"\n'
        for zone in zones:
            if zone not in signed | bogus:
                text += f'server:\n  domain-insecure: "{zone}."\n'
            text += f'stub-zone:\n  name: "{zone}."\n  stub-addr: 127.0.0.1@{authority}\n'
        (state / "unbound.conf").write_text(text)
        with programs.Daemon(["unbound", "-d", "-p", "-c", str(state / "unbound.conf")]) as daemon:
            daemon.says("start of service")
            yield Names(authority, port)


def _anchor(state: Path, zone: str, *, wrong: bool) -> str:
    done = subprocess.run(
        [programs.need("keymgr"), "-c", str(state / "knot.conf"), zone, "ds"],
        capture_output=True,
        text=True,
        check=True,
        env=programs.environment(state) | {"PATH": os.environ["PATH"] + ":/usr/sbin"},
    )
    line = next(line for line in done.stdout.splitlines() if " 13 2 " in line)
    name, _, rest = line.partition(" ")
    if wrong:
        rest = rest[:-8] + ("00000000" if not rest.endswith("00000000") else "11111111")
    return f"{name} 60 IN {rest}"
