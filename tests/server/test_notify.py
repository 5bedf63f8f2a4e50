"""The service manager's side: what it hears from us, and the sockets it passes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from mailserver.server.notify import Notifier, inherited


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """(socket of the manager, NOTIFY_SOCKET)"""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name if request.param == "path" else "\0" + name)
        sock.settimeout(5)
        yield sock, name if request.param == "path" else "@" + name


def test_states(manager):
    sock, address = manager
    environ = {"NOTIFY_SOCKET": address, "HOME": "/"}
    notifier = Notifier(environ)
    assert environ == {"HOME": "/"}  # no child speaks for us
    notifier.ready()
    assert sock.recv(100) == b"READY=1"
    notifier.stopping()
    assert sock.recv(100) == b"STOPPING=1"
    notifier.status("2 domains\nREADY=1 é")
    assert sock.recv(100).decode() == "STATUS=2 domains READY=1 é"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    state, stamp = sock.recv(100).decode().split("\n")
    assert state == "RELOADING=1"
    assert stamp.startswith("MONOTONIC_USEC=")
    assert before <= int(stamp.partition("=")[2]) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager(environ, monkeypatch):
    notifier = Notifier(environ)
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("nobody to talk to"))
    notifier.ready()
    notifier.alive()


def test_a_manager_that_is_gone_or_deaf(tmp_path):
    path = str(tmp_path / "notify")
    Notifier({"NOTIFY_SOCKET": path}).ready()
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 500}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(path)
        notifier = Notifier({"NOTIFY_SOCKET": path})
        for _ in range(5000):  # more than any queue holds
            notifier.ready()


def test_watchdog(manager):
    sock, address = manager
    notifier = Notifier(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    )
    assert notifier.interval == 0.01
    notifier.alive()
    assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "environ",
    [{"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-1"}],
)
def test_a_watchdog_that_is_not_ours(environ):
    assert Notifier(environ).interval == 0
    assert environ == {}


PRINT = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from mailserver.server.notify import inherited
found = inherited()
print(found, [os.get_inheritable(fd) for fd in range(3, 6)], [name for name in os.environ if "LISTEN" in name])
"""


def test_sockets_by_name_and_number():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    files = [sock.fileno() for sock in sockets]
    arguments = "".join(f" {fd + 3}<&{file}" for fd, file in enumerate(files))
    answer = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {arguments}', sys.executable, PRINT],
        pass_fds=files,
        env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "smtp:pop3:smtp"},
        capture_output=True,
        text=True,
        check=True,
    )
    for sock in sockets:
        sock.close()
    assert answer.stdout.strip() == (
        "{'3': (3,), 'smtp': (3, 5), '4': (4,), 'pop3': (4,), '5': (5,)} [False, False, False] []"
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "3"},
        {"LISTEN_FDS": "3", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a:b:c"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_of_others(environ):
    assert inherited(environ) == {}
    assert environ == {}
