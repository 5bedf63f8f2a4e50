"""`mailserver console` and a program with Perspective Broker, against a started server; and without Twisted."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import serving

from mailserver.config.model import NEEDS_TWISTED

DOCUMENT = Path(__file__).parents[2] / "docs" / "console.md"
# As on a machine where the extra is not installed.
BARE = (
    *serving.PYTHON,
    "-c",
    "import sys; sys.modules.update(twisted=None, zope=None)\nfrom mailserver.cli import main; main()",
)


class Begun(NamedTuple):
    site: serving.Site
    server: serving.Server
    tcp: str
    tls: str
    unix: str

    @property
    def authority(self) -> str:
        return str(self.site.config / "tls" / serving.HOST / "fullchain.pem")

    def console(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.site.run("console", *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def begun() -> Iterator[Begun]:
    pytest.importorskip("twisted", reason="the extra `console` is not installed")
    with serving.site() as site:
        ports = [site.ports.take() for _ in range(2)]
        addresses = [f"tcp:127.0.0.1:{ports[0]}", f"tls:127.0.0.1:{ports[1]}", f"unix:{site.root}/pb.sock"]
        telnet = ("telnet", f"unix:{site.root}/telnet.sock")
        site.configure([*(("pb", address) for address in addresses), telnet], top="workers = 1\n")
        site.write("operators/owen", f"{serving.HASH}\nrole = owner\n")
        site.write("operators/dora", f"{serving.HASH}\nrole = domain-admin\ndomains = example.test\n")
        with site.serve() as server:
            server.event("console-serving")
            yield Begun(site, server, *addresses)


def _hear_ctrl_c() -> None:
    """A shell's background job, which tests may be, ignores it, and so would all it begins."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program in a window of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._window, its_end = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mailserver", *arguments],
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
            env={**os.environ, "TERM": "dumb", **environment},
        )
        os.close(its_end)
        self.shown = ""

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._window)

    def until(self, pattern: str) -> str:
        """Wait for something to be shown; what was shown up to it, which is not looked at again."""
        while not (match := re.search(pattern, self.shown)):
            assert select.select([self._window], [], [], serving.LIMIT)[0], self.shown
            try:
                block = os.read(self._window, 4096)
            except OSError:
                raise AssertionError(f"ended before {pattern}: {self.shown}") from None
            self.shown += block.decode()
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self._window, text.encode())

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(serving.LIMIT)


@pytest.fixture
def begin(begun: Begun, tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    """Begin a console in a window, for an address."""
    with contextlib.ExitStack() as ends:

        def begin(address: str) -> Terminal:
            arguments = ("--config", str(begun.site.config), "console", address)
            terminal = Terminal(*arguments, XDG_STATE_HOME=str(tmp_path))
            ends.callback(terminal.close)
            return terminal

        yield begin


# ---- phrases without a dialogue


@pytest.mark.parametrize("kind", ["here", "unix", "tcp", "tls"])
def test_phrases_here_and_elsewhere(kind, begun):
    login = ("--user", "owen", "--password-stdin")
    ways = {
        "here": ((), ""),
        "unix": ((begun.unix,), ""),
        "tcp": ((begun.tcp, *login), serving.PASSWORD + "\n"),
        "tls": ((begun.tls, *login, "--ca", begun.authority), serving.PASSWORD + "\n"),
    }
    arguments, password = ways[kind]
    address = f"{kind}@example.test"
    phrases = (f"user add {address} --quota 1M", f"user show {address}", f"user remove {address}", "whoami")
    said = begun.console(
        *arguments,
        "--password-stdin",
        "--yes",
        *(part for phrase in phrases for part in ("-c", phrase)),
        stdin=password + "a good password\n",
    )
    assert (said.stderr, said.returncode) == ("", 0)
    assert said.stdout.startswith(f"{address} added\n")
    assert re.search(r"^quota +1M$", said.stdout, re.MULTILINE)
    assert f"\n{address} removed;" in said.stdout
    assert re.search(f"^front +{'control' if kind == 'here' else 'pb'}$", said.stdout, re.MULTILINE)


def test_lines_on_standard_input_are_phrases_until_one_cannot_be_done(begun):
    said = begun.console(stdin="domain list\n\nhelp whoami\ndomain show nowhere.test\nwhoami\n")
    assert said.returncode == 1
    assert said.stdout == "example.test  3  0\nwhoami\n\nWho you are here.\n"
    assert said.stderr == "mailserver: no domain nowhere.test\n"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("tls:{tls}", "the certificate cannot be trusted: self-signed certificate"),
        ("tcp:127.0.0.1:1", "tcp:127.0.0.1:1: Connection refused"),
        ("unix:/nowhere", "unix:/nowhere: No such file or directory"),
        ("tcp:192.0.2.1:25", "a password goes to other machines over TLS alone: tls:HOST:PORT"),
        (
            "fd:3",
            "'fd:3' is no address of a server, expected unix:/PATH, tls:HOST:PORT or tcp:127.0.0.1:PORT",
        ),
        ("nonsense", "'nonsense' is no address of a server"),
    ],
)
def test_what_cannot_be_reached_is_one_line(address, problem, begun):
    address = address.replace("tls:{tls}", begun.tls)
    said = begun.console(address, "--user", "owen", "--password-stdin", "-c", "status", stdin="x\n")
    assert said.returncode == 1 and said.stdout == ""
    assert problem in said.stderr and said.stderr.count("\n") == 1


def test_a_wrong_password_is_one_line(begun):
    said = begun.console(begun.tcp, "--user", "owen", "--password-stdin", "-c", "status", stdin="wrong\n")
    assert (said.stderr, said.returncode) == ("mailserver: wrong name or password\n", 1)


# ---- a dialogue


def test_a_dialogue_with_completion_streams_and_a_history_that_stays(begun, begin, tmp_path):
    console = begin(begun.tcp)
    console.until("Login: $")
    console.type("dora\n")
    console.until("Password: $")
    console.type(serving.PASSWORD + "\n")
    assert serving.PASSWORD not in console.until("You are dora domain-admin; try help.")
    console.until("dora domain-admin> $")
    console.type("user sh\tann@ex\t\n")
    assert "example.test" in console.until("dora domain-admin> $")
    console.type("domain show other.test\n")
    console.until("no domain other.test\r\n")
    console.type("user remove ann@example.test\n")
    console.until(r"\[y/N\]: $")
    console.type("n\n")
    console.until("dora domain-admin> $")
    console.type("queue list --watch\n")
    begun.server.event("audit", operation="queue list --watch", operator="dora")
    console.process.send_signal(signal.SIGINT)
    console.until("dora domain-admin> $")
    console.type("half a line")
    console.until("half a line$")
    console.process.send_signal(signal.SIGINT)
    console.until("dora domain-admin> $")
    console.type("whoami\n")
    console.until("front +pb")
    console.until("dora domain-admin> $")
    console.type("logout\n")
    assert console.ends() == 0

    console = begin(begun.tcp)
    for prompt, answer in (("Login: $", "dora"), ("Password: $", serving.PASSWORD)):
        console.until(prompt)
        console.type(answer + "\n")
    console.until("dora domain-admin> $")
    console.type("\x10\x10\n")  # the phrase before the last one
    console.until("front +pb")
    console.until("dora domain-admin> $")
    console.type("\x04")
    assert console.ends() == 0
    assert serving.PASSWORD not in (tmp_path / "mailserver" / "console_history").read_text()


def test_who_is_cut_off_is_told(begun, begin):
    console = begin(begun.unix)
    console.until("root owner> $")
    sessions = begun.console("--json", "-c", "session list").stdout
    [number] = re.findall(r'"id": "([^"]+)",\s+"protocol": "pb"', sessions)
    assert begun.console("-c", f"session close {number}").returncode == 0
    console.type("whoami\n")
    console.until("mailserver: the server has closed the connection\r\n")
    assert console.ends() == 1


def test_a_listener_for_telnet_is_not_for_this(begun):
    address = f"unix:{begun.site.root}/telnet.sock"
    said = begun.console(address, "-c", "whoami")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == f"mailserver: {address}: the connection ended at once; is that a listener for pb?\n"


# ---- the document


def test_the_script_of_the_document_adds_a_user(begun):
    """As it stands there, but for the name of the machine and the domain."""
    [script] = re.findall(
        r"^```python\n(from getpass .*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(script.splitlines()) == 10
    here = script.replace("tls:mx.example.org:8787", begun.tcp).replace(
        "bob@example.org", "bill@example.test"
    )
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", here],
        input=f"{serving.PASSWORD}\na good password\n",
        capture_output=True,
        text=True,
        timeout=serving.LIMIT,
        start_new_session=True,  # no terminal to ask at
    )
    assert said.returncode == 0, said.stderr
    assert "'address': 'bill@example.test'" in said.stdout
    assert '"quota": 1073741824' in begun.console("--json", "-c", "user show bill@example.test").stdout


# ---- without the extra


def test_without_twisted_all_else_works(tmp_path):
    with serving.site() as site:
        port = site.ports.take()
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")], top="workers = 1\n")

        def bare(*arguments):
            return subprocess.run(
                [*BARE, "--config", str(site.config), *arguments],
                capture_output=True,
                text=True,
                timeout=serving.LIMIT,
            )

        with site.serve(command=BARE) as server:
            server.event("console-serving")
            assert bare("console", "-c", "user list").stdout.split() == sorted(serving.USERS)
            assert bare("status").returncode == 0
            for address in ("tls:mx.example.test:8787", "unix:/nowhere"):
                said = bare("console", address, "-c", "status")
                assert said.stderr == f"mailserver: {address} {NEEDS_TWISTED}\n"
                assert said.returncode == 1
            said = bare("listener", "add", "telnet", f"unix:{site.root}/x.sock")
            assert said.returncode == 1 and said.stderr.count("\n") == 1
            assert f"telnet {NEEDS_TWISTED}" in said.stderr
        site.settings([("pb", f"unix:{site.root}/x.sock")])
        said = bare("check")
        assert said.returncode == 1
        assert f"].protocol: pb {NEEDS_TWISTED}" in said.stdout + said.stderr
