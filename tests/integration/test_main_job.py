"""The main job: one command brings up the server, a real client sends to a user, a real client reads it.

And the names that scripts rely on: the letters of `serve`, and `user add` and `remove` beside a running server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import serving

ROOT = Path(__file__).parent.parent.parent


def curl_reads(run, port: int, user: str, password: str, number: str = "1", code: int = 0) -> str:
    url = f"pop3://127.0.0.1:{port}/{number}"
    return run("curl", "--silent", "--show-error", "--user", f"{user}:{password}", url, code=code).stdout


def swaks_sends(run, port: int, to: str, code: int = 0) -> str:
    subject = ("--header", "Subject: the main job")
    options = ("--server", f"127.0.0.1:{port}", "--from", "a@client.test", "--helo", "client.test")
    return run("swaks", *options, "--to", to, *subject, code=code).stdout


# ---- the fixed names


class Letters:
    """`mailserver serve -d foobar.test=DIR -u postmaster=secret -b -p ENDPOINT -s ENDPOINT`, and no file before."""

    def __init__(self, root: Path, ports: serving.Ports) -> None:
        self.mail = root / "mail"
        self.smtp, self.pop3 = ports.take(), ports.take()
        self.server = serving.Server(
            *("serve", "-d", f"foobar.test={self.mail}", "-u", "postmaster=secret", "-b"),
            *("-p", f"tcp:127.0.0.1:{self.pop3}", "-s", f"tcp:127.0.0.1:{self.smtp}"),
        )

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*serving.MODULE, "--config", str(self.mail / ".config"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=serving.LIMIT,
        )


@pytest.fixture
def letters(tmp_path: Path) -> Iterator[Letters]:
    ports = serving.Ports()
    try:
        made = Letters(tmp_path, ports)
        with made.server:
            yield made
    finally:
        ports.close()


def test_letters(run, letters: Letters) -> None:
    for name in ("postmaster", "nobody-at-all", "Any.One+tag"):
        swaks_sends(run, letters.smtp, f"{name}@foobar.test")
    for number in ("1", "2", "3"):
        content = curl_reads(run, letters.pop3, "postmaster@foobar.test", "secret", number)
        assert "Subject: the main job" in content
    assert curl_reads(run, letters.pop3, "postmaster", "secret")  # of the first domain, by the name alone
    assert "550 5.7.1" in swaks_sends(run, letters.smtp, "ann@elsewhere.test", code=24)


def test_a_user_comes_and_goes_beside_the_running_server(run, letters: Letters) -> None:
    ann = "ann@foobar.test"
    curl_reads(run, letters.pop3, ann, "wonderland", code=67)  # login denied
    added = letters.run("user", "add", ann, "--password-stdin", stdin="wonderland\n")
    assert (added.returncode, added.stdout) == (0, f"{ann} added\n"), added.stderr
    swaks_sends(run, letters.smtp, ann)
    assert "Subject: the main job" in curl_reads(run, letters.pop3, ann, "wonderland")
    again = letters.run("user", "add", ann, "--password-stdin", stdin="other\n")
    assert (again.returncode, again.stderr) == (1, f"mailserver: user {ann} exists already\n")

    removed = letters.run("user", "remove", ann, "--yes")
    assert removed.returncode == 0, removed.stderr
    kept = Path(removed.stdout.rpartition(" ")[2].strip())
    assert removed.stdout.startswith(f"{ann} removed; the mail is kept in {letters.mail}")
    assert b"Subject: the main job" in next((kept / "new").iterdir()).read_bytes()
    curl_reads(run, letters.pop3, ann, "wonderland", code=67)
    swaks_sends(run, letters.smtp, ann)  # as for any name: to postmaster
    assert "ann@foobar.test" in curl_reads(run, letters.pop3, "postmaster", "secret")


def test_what_the_letters_made_stays(run, letters: Letters, tmp_path: Path) -> None:
    swaks_sends(run, letters.smtp, "postmaster@foobar.test")
    letters.server.stop()
    ports = serving.Ports()
    smtp, pop3 = ports.take(), ports.take()
    with serving.Server(
        *("--config", letters.mail / ".config", "serve"),
        *("-p", f"tcp:127.0.0.1:{pop3}", "-s", f"tcp:127.0.0.1:{smtp}"),
    ):
        assert "Subject: the main job" in curl_reads(run, pop3, "postmaster@foobar.test", "secret")
        swaks_sends(run, smtp, "anybody@foobar.test")
    ports.close()


# ---- a fresh checkout

FIRST_START = r"^First start: user postmaster@example\.test, password (\S+) \(shown this once\)$"
FIXED = {"smtp": 2525, "submission": 2587, "submissions": 2465, "pop3": 2110, "pop3s": 2995}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the repository this file is in."""
    if not os.environ.get("CI"):
        pytest.skip("installs everything anew: set CI=1 to run it")
    programs.need("make")
    git = ["git", "-c", "safe.directory=*"]
    if subprocess.run([*git, "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode != 0:
        pytest.skip("not a git checkout")
    clone = tmp_path / "mailserver"
    subprocess.run([*git, "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    return clone


def require_free_ports() -> None:
    for port in FIXED.values():
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"somebody listens on port {port}, where a checkout serves")


@pytest.mark.timeout(600)
def test_make_run_on_a_fresh_checkout(run, checkout: Path) -> None:
    """`make run`; swaks in, curl out; and a second start keeps user and mail."""
    subprocess.run(["make", ".venv/.run"], cwd=checkout, check=True, capture_output=True, timeout=500)
    require_free_ports()
    with serving.Server(command=["make", "--silent", "-C", str(checkout), "run"]) as server:
        first = server.says(FIRST_START)[1]
        swaks_sends(run, FIXED["smtp"], "postmaster@example.test")
        read = curl_reads(run, FIXED["pop3"], "postmaster@example.test", first)
        assert "Subject: the main job" in read
        certificate = checkout / "config" / "tls" / "mail.example.test" / "fullchain.pem"
        url = f"pop3s://localhost:{FIXED['pop3s']}/1"
        options = ["--silent", "--show-error", "--cacert", certificate, "--user", f"postmaster:{first}"]
        assert run("curl", *options, url).stdout == read
        stop(server)
    status = subprocess.run(["git", "status", "--short"], cwd=checkout, capture_output=True, text=True)
    assert status.stdout == ""  # what is made at the first start is ignored
    with serving.Server(command=["make", "--silent", "-C", str(checkout), "run"]) as server:
        assert curl_reads(run, FIXED["pop3"], "postmaster@example.test", first) == read
        stop(server)
    assert "First start" not in server.output
    shutil.rmtree(checkout)


def stop(server: serving.Server) -> None:
    """SIGTERM to the server itself; `make` waits for it."""
    (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert server.wait() == 0
