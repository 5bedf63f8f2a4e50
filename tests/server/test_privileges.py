"""Dropping root, tried in a child process each time."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import sys

import pytest

from mailserver.server import privileges
from mailserver.server.privileges import PrivilegeError, drop

USER = "nobody"
ENTRY = pwd.getpwnam(USER)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # of os.fork
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run as root")


def in_child(body) -> str:
    """What `body()` returned, in a forked child, as text; or its exception."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = repr(body())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


def identity():
    return os.getresuid(), os.getresgid(), os.getgroups()


@as_root
@pytest.mark.parametrize("user", [USER, str(ENTRY.pw_uid)])
def test_the_users_own_group(user):
    def body():
        os.setgroups([0, 1, 2])
        drop(user)
        return identity()

    assert in_child(body) == repr(((ENTRY.pw_uid,) * 3, (ENTRY.pw_gid,) * 3, []))


@as_root
@pytest.mark.parametrize("group", ["daemon", str(grp.getgrnam("daemon").gr_gid)])
def test_a_named_group(group):
    gid = grp.getgrnam("daemon").gr_gid
    assert in_child(lambda: (drop(USER, group), identity())[1]) == repr(((ENTRY.pw_uid,) * 3, (gid,) * 3, []))


@as_root
def test_there_is_no_way_back():
    def body():
        drop(USER)
        for attempt in (os.setuid, os.seteuid, os.setgid, os.setegid):
            with pytest.raises(PermissionError):
                attempt(0)
        with pytest.raises(PermissionError):
            os.setgroups([0])
        with pytest.raises(PermissionError):
            open("/etc/shadow").close()
        return "none"

    assert in_child(body) == "'none'"


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="no_new_privs is Linux's")
def test_set_uid_programs_give_nothing():
    pr_get_no_new_privs = 39
    assert in_child(lambda: (drop(USER), ctypes.CDLL(None).prctl(pr_get_no_new_privs, 0, 0, 0, 0))[1]) == "1"


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_way_back_is_noticed():
    """With SECBIT_NO_SETUID_FIXUP the capabilities outlive the change of user."""
    pr_set_securebits, no_setuid_fixup = 28, 4

    def body():
        if ctypes.CDLL(None).prctl(pr_set_securebits, no_setuid_fixup, 0, 0, 0) != 0:
            return "not allowed"
        return drop(USER)

    answer = in_child(body)
    if answer == "'not allowed'":
        pytest.skip("root may not set securebits here (a container without CAP_SETPCAP)")
    assert answer.startswith("PrivilegeError: root's rights could be had again")


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "unknown user 'no-such-user'"),
        (USER, "no-such-group", "unknown group 'no-such-group'"),
        ("4294967295", None, "unknown user"),  # -1 to the system calls: stay who you are
        ("-1", None, "unknown user"),
        ("3999999999", None, "name the group"),
        ("root", None, "ordinary user"),
        ("0", "daemon", "ordinary user"),
        (USER, "0", "ordinary user"),
    ],
)
def test_refused(user, group, message):
    before = identity()
    with pytest.raises(PrivilegeError, match=message):
        drop(user, group)
    assert identity() == before


def test_without_root():
    def body():
        if os.geteuid() == 0:
            os.setresuid(ENTRY.pw_uid, ENTRY.pw_uid, ENTRY.pw_uid)
        drop("daemon")

    assert in_child(body).startswith("PrivilegeError: cannot become user 'daemon': Operation not permitted")


@as_root
def test_a_kernel_that_pretends(monkeypatch):
    """The result is checked, not the return codes."""
    monkeypatch.setattr(privileges.os, "setresuid", lambda *_: None)
    assert in_child(lambda: drop(USER)).startswith("PrivilegeError: the user or group did not change")
