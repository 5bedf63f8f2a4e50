"""Changes by operators: whole or not at all, keeping what people wrote, safe beside each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mailserver
from mailserver.directory import Directory, Exists, Malformed, Missing
from mailserver.directory.inspection import problems
from mailserver.durable import files
from mailserver.mail.address import Address, parse_mailbox

HASH = "$1$SGz3z46F$qBriESlzdI42Br.mEWxnL1"
OTHER = "$1$p0IMN5D0$h3f.tEMYfVPFk/WrqFJUS."
ANN = Address("Ann", "example.org")
BOB = Address("bob", "example.org")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    directory = Directory(str(tmp_path / "domains"))
    directory.add_domain("example.org")
    return directory


def names(directory: Directory, path: str = "example.org/users") -> set[str]:
    return set(os.listdir(f"{directory.root}/{path}"))


def mode(directory: Directory, path: str) -> int:
    return os.stat(f"{directory.root}/{path}").st_mode & 0o777


def test_life_of_a_user(directory: Directory) -> None:
    directory.add_user(ANN, HASH, {"quota": "1G", "enabled": "no"})
    user = directory.user("example.org", "ann")
    assert user and (user.password, user.quota.storage, user.enabled) == (HASH, 1 << 30, False)
    assert names(directory) == {"ann"}
    with pytest.raises(Exists, match=r"^Ann@example.org exists already$"):
        directory.add_user(ANN, OTHER)
    assert directory.set_password(ANN, OTHER)
    user = directory.user("example.org", "ann")
    assert user and user.password == OTHER
    directory.remove_user(ANN)
    assert directory.user("example.org", "ann") is None
    assert names(directory) == set()


def test_life_of_an_alias(directory: Directory) -> None:
    team = Address("team", "example.org")
    directory.add_alias(team, [ANN, parse_mailbox("eva@bücher.example")])
    assert directory.alias("example.org", "team") == (ANN, Address("eva", "xn--bcher-kva.example"))
    with pytest.raises(Exists, match=r"^team@example.org exists already$"):
        directory.add_alias(team, [ANN])
    assert list(directory.aliases("example.org")) == ["team"]
    directory.remove_alias(team)
    assert directory.alias("example.org", "team") is None
    with pytest.raises(Malformed):
        directory.add_alias(team, [])


def test_life_of_a_domain(directory: Directory) -> None:
    directory.add_domain(
        "Bücher.example", {"catch_all": "eva", "undeliverable_to_postmaster": True, "quota": "1G"}
    )
    ours = directory.domain("xn--bcher-kva.example")
    assert ours and ours.catch_all == "eva@xn--bcher-kva.example"
    assert ours.postmaster_gets_undeliverable
    assert sorted(directory.domains()) == ["example.org", "xn--bcher-kva.example"]
    with pytest.raises(Exists):
        directory.add_domain("BÜCHER.example")
    eva = Address("eva", "xn--bcher-kva.example")
    directory.add_user(eva, HASH)
    with pytest.raises(Exists, match="still has users"):
        directory.remove_domain("bücher.example")
    directory.remove_user(eva)
    directory.remove_domain("bücher.example")
    assert directory.domain("bücher.example") is None
    assert names(directory, "") == {"example.org"}


def test_domain_made_by_hand_with_u_labels_is_the_same_domain(directory: Directory) -> None:
    os.mkdir(f"{directory.root}/bücher.example")
    with pytest.raises(Exists):
        directory.add_domain("xn--bcher-kva.example")
    directory.add_user(parse_mailbox("eva@bücher.example"), HASH)
    assert names(directory, "bücher.example/users") == {"eva"}


def test_linked_domain_loses_only_its_link(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/notes").touch()
    os.symlink(tmp_path / "elsewhere", f"{directory.root}/example.net")
    directory.remove_domain("example.net")
    assert directory.domain("example.net") is None
    assert (tmp_path / "elsewhere/notes").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.set_password(BOB, HASH),
        lambda d: d.set_user(BOB, {"quota": "1G"}),
        lambda d: d.remove_user(BOB),
        lambda d: d.remove_alias(BOB),
        lambda d: d.remove_domain("example.com"),
        lambda d: d.add_user(Address("ann", "example.com"), HASH),
        lambda d: d.add_alias(Address("ann", "example.com"), [ANN]),
        lambda d: d.users("example.com"),
    ],
)
def test_what_is_not_there_is_missing(directory: Directory, change: Callable[[Directory], None]) -> None:
    with pytest.raises(Missing, match=r"^no (user|alias|domain) \S+$"):
        change(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.add_user(BOB, ""),
        lambda d: d.add_user(BOB, "a\nquota = 1T"),
        lambda d: d.add_user(BOB, "#"),
        lambda d: d.add_user(BOB, HASH, {"quota": "lots"}),
        lambda d: d.add_user(BOB, HASH, {"quota": "1G\nenabled = no"}),
        lambda d: d.add_user(BOB, HASH, {"shell": "/bin/sh"}),
        lambda d: d.set_password(ANN, "a b"),
        lambda d: d.set_password(ANN, HASH + "\nenabled = no"),
        lambda d: d.set_user(ANN, {"enabled": "perhaps"}),
        lambda d: d.set_user(ANN, {"enabled": "yes\nquota = 0"}),
        lambda d: d.add_domain("example.net", {"quota": "x"}),
        lambda d: d.add_domain("example.net", {"relay": "x"}),
        lambda d: d.add_domain("example.net", {"maildirs": "\x7f"}),
    ],
)
def test_nothing_malformed_is_written(directory: Directory, change: Callable[[Directory], None]) -> None:
    directory.add_user(ANN, HASH)
    with pytest.raises(Malformed):
        change(directory)
    assert not list(problems(directory))
    assert names(directory, "") == {"example.org"}
    assert Path(f"{directory.root}/example.org/users/ann").read_text() == HASH + "\n"
    assert names(directory) == {"ann"}


@pytest.mark.parametrize("local", ["", "💌" * 22, "\udcff"])
def test_what_can_be_no_file_name_is_refused(directory: Directory, local: str) -> None:
    with pytest.raises(ValueError, match=r"local part|codec"):
        directory.add_user(Address(local, "example.org"), HASH)
    assert names(directory) == set()


WRITTEN = f"{HASH}\r\n\n# hers \xe9\n  quota =  1G  \n\n# end, without a line end".encode("latin-1")


def test_changes_keep_other_lines_byte_for_byte(directory: Directory) -> None:
    file = Path(f"{directory.root}/example.org/users/ann")
    file.write_bytes(WRITTEN)
    directory.set_password(ANN, OTHER)
    assert file.read_bytes() == WRITTEN.replace(HASH.encode(), OTHER.encode())
    file.write_bytes(WRITTEN)
    directory.set_user(ANN, {"enabled": "no"})
    assert file.read_bytes() == WRITTEN + b"\nenabled = no\n"
    directory.set_user(ANN, {"quota": "2G", "enabled": None, "quota_messages": None})
    assert file.read_bytes() == WRITTEN.replace(b"  quota =  1G  ", b"quota = 2G") + b"\n"
    directory.set_user(ANN, {"quota": None})
    assert file.read_bytes() == WRITTEN.replace(b"  quota =  1G  \n", b"") + b"\n"


def test_new_password_repairs_a_damaged_hash(directory: Directory) -> None:
    file = Path(f"{directory.root}/example.org/users/ann")
    file.write_bytes(b"two words\nquota = 1G\n")
    directory.set_password(ANN, HASH)
    assert file.read_text() == f"{HASH}\nquota = 1G\n"
    file.write_bytes(b"")
    directory.set_password(ANN, HASH)
    assert file.read_text() == f"{HASH}\n"


def test_only_the_expected_hash_is_replaced(directory: Directory) -> None:
    directory.add_user(ANN, HASH)
    assert not directory.set_password(ANN, "$new", expected=OTHER)
    user = directory.user("example.org", "ann")
    assert user and user.password == HASH
    assert directory.set_password(ANN, OTHER, expected=HASH)


def test_modes_and_links(directory: Directory) -> None:
    directory.add_user(ANN, HASH)
    directory.add_domain("example.net", {"quota": "1G"})
    assert mode(directory, "example.org/users/ann") == 0o600
    assert mode(directory, "example.net/domain.toml") == 0o600
    for path in ("example.org", "example.org/users", "example.org/aliases", "example.net"):
        assert mode(directory, path) == 0o700
    os.symlink("ann", f"{directory.root}/example.org/users/bob")
    directory.set_password(BOB, OTHER)
    assert os.path.islink(f"{directory.root}/example.org/users/bob")
    user = directory.user("example.org", "ann")
    assert user and user.password == OTHER
    directory.remove_user(BOB)
    assert names(directory) == {"ann"}


@pytest.mark.parametrize("call", ["write", "fsync", "link", "rename"])
def test_failing_disk_leaves_all_as_it_was(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    directory.add_user(ANN, HASH)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for change in (
            lambda: directory.add_user(BOB, HASH),
            lambda: directory.set_password(ANN, OTHER),
            lambda: directory.add_domain("example.net", {"quota": "1G"}),
        ):
            if call not in ("link", "rename"):
                with pytest.raises(OSError, match="No space"):
                    change()
            else:
                try:
                    change()
                except OSError:
                    continue
    assert not [name for _, _, found in os.walk(directory.root) for name in found if name.startswith(".")]
    assert not [name for name in os.listdir(directory.root) if name.startswith(".")]
    assert not list(problems(directory))


def test_create_never_replaces(tmp_path: Path) -> None:
    files.create(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


# ---- several programs at once

PRELUDE = """
import sys
from mailserver.directory import Directory, Exists, Missing
from mailserver.mail.address import Address
directory, me = Directory(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
won = 0
"""


def race(directory: Directory, program: str, count: int = 2) -> list[int]:
    """Run `program` in several processes that begin at the same time; the figures they print."""
    root = os.path.dirname(os.path.dirname(mailserver.__file__))
    script = PRELUDE + program + "\nprint(won)"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, directory.root, str(me)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        for me in range(count)
    ]
    for run in runs:
        assert run.stdout and run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin
        run.stdin.write("\n")
        run.stdin.flush()
    return [int(run.communicate(timeout=60)[0]) for run in runs]


def test_of_two_that_add_the_same_user_one_wins(directory: Directory) -> None:
    won = race(
        directory,
        """
for number in range(100):
    try:
        directory.add_user(Address(f"user{number}", "example.org"), f"$hash-of-{me}")
        won += 1
    except Exists:
        pass
""",
    )
    owners = [user.password for n in range(100) if (user := directory.user("example.org", f"user{n}"))]
    assert [owners.count(f"$hash-of-{me}") for me in (0, 1)] == won
    assert sum(won) == 100


def test_changes_of_different_settings_both_stay(directory: Directory) -> None:
    directory.add_user(ANN, HASH)
    race(
        directory,
        """
key = ("quota", "quota_messages")[int(me)]
for number in range(1, 101):
    directory.set_user(Address("ann", "example.org"), {key: str(number)})
""",
    )
    user = directory.user("example.org", "ann")
    assert user and user.quota == (100, 100)


def test_of_two_that_add_and_remove_a_domain_nobody_meets_a_half(directory: Directory) -> None:
    won = race(
        directory,
        """
while won < 20:
    try:
        directory.add_domain("example.net", {"quota": "1G"})
        won += 1
        assert directory.domain("example.net").quota.storage == 1 << 30
        directory.add_user(Address(me, "example.net"), "$hash")
        directory.remove_user(Address(me, "example.net"))
        directory.remove_domain("example.net")
    except Exists:
        pass
""",
    )
    assert won == [20, 20]
    assert names(directory, "") <= {"example.org", "example.net"}


# ---- what `check` tells


def test_problems_are_all_told_and_nothing_else(directory: Directory) -> None:
    directory.add_user(ANN, HASH)
    assert list(problems(directory)) == []
    root = Path(directory.root)
    (root / "README").touch()
    (root / "Example.NET").mkdir()
    (root / "bücher.example").mkdir()
    (root / "xn--bcher-kva.example").mkdir()
    (root / "example.com").mkdir()
    (root / "example.com/domain.toml").write_text("x = 1")
    (root / ".git").mkdir()
    users = root / "example.org/users"
    (users / "Bob").write_text(HASH)
    (users / "eva~").write_text(HASH)
    (users / ".eva.swp").touch()
    (users / "eva").write_text("{PLAIN}secret")
    (users / "max").write_text("")
    (root / "example.org/aliases/team").write_text("a b")
    told = {(fault.file.removeprefix(f"{root}/"), fault.reason) for fault in problems(directory)}
    unused = "the file's name is no local part in lower case; it is not used"
    assert told == {
        ("README", "expected a directory named by a domain in lower case"),
        ("Example.NET", "expected a directory named by a domain in lower case"),
        ("bücher.example", f"not used: {root}/xn--bcher-kva.example is the same domain"),
        (
            "example.com/domain.toml",
            "unknown key x; expected one of catch_all, undeliverable_to_postmaster, quota, quota_messages, maildirs",
        ),
        ("example.org/users/Bob", unused),
        ("example.org/users/eva~", unused),
        ("example.org/users/eva", "line 1: clear passwords are not accepted; store a hash"),
        ("example.org/users/max", "line 1: expected a password hash"),
        ("example.org/aliases/team", "line 1: expected an address or a local part"),
    }
