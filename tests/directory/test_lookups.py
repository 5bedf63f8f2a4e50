"""Look-ups: what is in the files counts at once, costs little, and trouble with one file stays its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mailserver import maillog
from mailserver.directory import Directory, Domain, Unavailable, cache
from mailserver.mail.address import Address
from mailserver.mail.quota import Quota

HASH = "$1$SGz3z46F$qBriESlzdI42Br.mEWxnL1"
OTHER = "$1$p0IMN5D0$h3f.tEMYfVPFk/WrqFJUS."


class Tree:
    """A directory database made by hand, as an editor, cp or git would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = Directory(str(root))

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def password(self, local: str = "ann", domain: str = "example.org") -> str | None:
        user = self.directory.user(domain, local)
        return user and user.password


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path / "domains")
    tree.write("example.org/users/ann", HASH + "\n")
    return tree


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append({"event": name, **fields}))
    return seen


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were written a while ago, so that they may be kept."""
    now = cache.time.time_ns
    monkeypatch.setattr(cache.time, "time_ns", lambda: now() + 10_000_000_000)


# ---- hand-made changes count at once


def test_file_appears_changes_and_vanishes(tree: Tree, later: None) -> None:
    assert tree.password("bob") is None
    file = tree.write("example.org/users/bob", HASH)
    assert tree.password("bob") == HASH
    file.write_text(OTHER)
    assert tree.password("bob") == OTHER
    file.unlink()
    assert tree.password("bob") is None
    file.write_text(HASH)
    assert tree.password("bob") == HASH


def test_domain_appears_and_vanishes(tree: Tree, later: None) -> None:
    assert tree.directory.domain("example.net") is None
    (tree.root / "example.net").mkdir()
    assert tree.directory.domain("example.net") == Domain("example.net", f"{tree.root}/example.net")
    assert tree.password("ann", "example.net") is None
    (tree.root / "example.net").rmdir()
    assert tree.directory.domain("example.net") is None


def test_same_size_and_time_is_still_a_change(tree: Tree, later: None) -> None:
    """`cp -p` and `touch -d` set the time of modification, but not the other one."""
    file = tree.root / "example.org/users/ann"
    assert tree.password() == HASH
    before = file.stat()
    file.write_text(OTHER + "\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert tree.password() == OTHER


def test_second_write_within_one_tick_of_the_clock_counts(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tree.root / "example.org/users/ann"
    stopped = (1, 1, 1, 1)
    monkeypatch.setattr(cache, "_signature", lambda _: stopped)
    assert tree.password() == HASH
    file.write_text(OTHER + "\n")
    assert tree.password() == OTHER


def test_settled_file_is_read_once(tree: Tree, later: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write("example.org/domain.toml", 'quota = "1M"')
    first = tree.directory.user("example.org", "ann")
    monkeypatch.setattr(cache, "read", lambda *_: pytest.fail("read again"))
    assert tree.directory.user("EXAMPLE.org", "ANN") is first


def test_domain_settings_count_for_its_users_at_once(tree: Tree, later: None) -> None:
    tree.write("example.org/users/bob", HASH + "\nquota = 5M\n")
    quota = lambda local: tree.directory.user("example.org", local).quota  # type: ignore[union-attr]  # noqa: E731
    assert quota("ann") == Quota()
    file = tree.write("example.org/domain.toml", 'quota = "1G"\nquota_messages = 7\n')
    assert quota("ann") == Quota(1 << 30, 7)
    assert quota("bob") == Quota(5 << 20, 7)
    file.write_text('quota = "2G"\nquota_messages = 7\n')
    assert quota("ann") == Quota(2 << 30, 7)
    file.unlink()
    assert quota("ann") == Quota()
    assert quota("bob") == Quota(5 << 20, 0)


def test_settings_put_in_place_by_any_means_count_at_once(tree: Tree, later: None, tmp_path: Path) -> None:
    settings, other = tree.root / "example.org/domain.toml", tmp_path / "other.toml"
    other.write_text('maildirs = "/srv/mail"')
    for put in (
        lambda: os.link(other, settings),
        lambda: settings.symlink_to(other),
        lambda: os.rename(other, settings),
    ):
        for _ in range(2):
            assert tree.directory.domain("example.org") == Domain("example.org", str(settings.parent))
        put()
        for _ in range(2):
            domain = tree.directory.domain("example.org")
            assert domain and domain.maildirs == "/srv/mail"
        settings.unlink()


def test_another_directory_in_place_of_a_domains_counts_at_once(tree: Tree, later: None) -> None:
    tree.write("spare/domain.toml", 'maildirs = "/srv/spare"')
    os.mkdir(tree.root / "bare")
    domain = tree.root / "example.net"

    def maildirs() -> str | None:
        ours = [tree.directory.domain("example.net") for _ in range(2)]
        assert ours[0] and ours[0] == ours[1]
        return ours[0].maildirs

    domain.symlink_to("bare")
    assert maildirs() is None
    domain.unlink()
    domain.symlink_to("spare")
    assert maildirs() == "/srv/spare"
    domain.unlink()
    (tree.root / "bare").rename(domain)
    assert maildirs() is None
    domain.rename(tree.root / "bare")
    assert tree.directory.domain("example.net") is None
    (tree.root / "spare").rename(domain)
    assert maildirs() == "/srv/spare"


def test_settings_written_within_one_tick_of_the_directorys_time_count(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = (1, 1, 1, 1)
    monkeypatch.setattr(cache, "_signature", lambda _: stopped)
    assert tree.directory.domain("example.org")
    tree.write("example.org/domain.toml", 'maildirs = "/srv/mail"')
    domain = tree.directory.domain("example.org")
    assert domain and domain.maildirs == "/srv/mail"


# ---- cost


def test_many_users_are_never_listed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = tree.root / "example.org/users/ann"
    for number in range(20_000):
        os.link(ann, f"{ann.parent}/user{number}")
    for name in ("scandir", "listdir", "walk"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("listed"))
    fresh = Directory(str(tree.root))
    assert fresh.user("example.org", "user19999")
    assert fresh.user("example.org", "user20000") is None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the system calls that look at files, in order."""
    seen: list[str] = []
    for name in ("stat", "lstat", "access", "open", "readlink", "scandir", "listdir"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *a, _real=real, **k: (seen.append(str(path)), _real(path, *a, **k))[1]
        )
    return seen


@pytest.mark.parametrize("settings", [False, True])
def test_kept_look_up_costs_two_system_calls(
    tree: Tree, later: None, calls: list[str], settings: bool
) -> None:
    if settings:
        tree.write("example.org/domain.toml", "")
    assert tree.password() == HASH
    calls.clear()
    assert tree.password() == HASH
    domain = f"{tree.root}/example.org"
    assert calls == [f"{domain}/domain.toml" if settings else domain, f"{domain}/users/ann"]


def test_who_gives_the_domain_has_it_not_looked_up_again(tree: Tree, later: None, calls: list[str]) -> None:
    tree.write("example.org/aliases/team", "ann")
    domain = tree.directory.domain("example.org")
    assert domain
    for _ in range(2):
        calls.clear()
        assert tree.directory.user(domain, "ann") is tree.directory.user("example.org", "ann")
        assert tree.directory.alias(domain, "team") == (Address("ann", "example.org"),)
        assert tree.directory.user(domain, "team") is None
    users, team = f"{domain.directory}/users", f"{domain.directory}/aliases/team"
    assert calls == [f"{users}/ann", domain.directory, f"{users}/ann", team, f"{users}/team"]


def test_memory_is_bounded(tree: Tree, later: None) -> None:
    files = cache.Files(lambda path, data, _: path, octets=100, entries=10)
    for number in range(100):
        path = str(tree.write(f"example.org/users/u{number}", HASH))
        assert files.get(path, None) == path
        assert files.get(str(tree.root / "example.org/users/ann"), None)
    assert len(files._young) + len(files._old) <= 20
    assert str(tree.root / "example.org/users/ann") in files._young.keys() | files._old.keys()


# ---- names


def test_local_parts_are_folded_and_domains_canonical(tree: Tree) -> None:
    tree.write("xn--bcher-kva.example/users/jürgen", HASH)
    for domain in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example"):
        for local in ("jürgen", "JÜRGEN", "ju\u0308rgen"):
            user = tree.directory.user(domain, local)
            assert user and (user.local, user.domain) == ("jürgen", "xn--bcher-kva.example")
    assert tree.password("ann", "xn--bcher-kva.example") is None


def test_domain_directory_may_be_named_by_its_u_labels(tree: Tree) -> None:
    tree.write("bücher.example/users/eva", HASH)
    assert tree.password("eva", "xn--bcher-kva.example") == HASH
    tree.write("xn--bcher-kva.example/users/max", HASH)
    assert tree.password("eva", "bücher.example") is None  # the A-labels count where both are there
    assert sorted(tree.directory.domains()) == ["example.org", "xn--bcher-kva.example"]


EVIL = [
    "",
    ".",
    "..",
    "../ann",
    "../../secret",
    "..%2f..%2fsecret",
    "%2e%2e/secret",
    "/etc/passwd",
    "users/ann",
    "ann/",
    "ann/.",
    "./ann",
    "ann\0",
    "ann\0.txt",
    "ann\n",
    "\r\nann",
    "ann~",
    "#ann#",
    ".ann.swp",
    "~root",
    "$HOME",
    "`id`",
    "|id",
    "\\..\\secret",
    "．．／secret",
    "‥/secret",
    "ann\u202e",
    "\udcff",
    "*",
    "a" * 300,
    "../" * 100,
    "💌" * 64,
    "con:",
    "domain.toml",
]


def test_no_name_leads_out_of_its_directory(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write("../secret", HASH)
    tree.write("secret", HASH)
    tree.write("example.org/secret", HASH)
    touched: list[str] = []
    for name in ("stat", "lstat", "open", "access"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda p, *a, _real=real, **k: (touched.append(p), _real(p, *a, **k))[1]
        )
    for local in EVIL:
        assert tree.directory.user("example.org", local) is None
        assert tree.directory.alias("example.org", local) is None
    for domain in EVIL:
        assert tree.directory.domain(domain) is None
        assert tree.directory.user(domain, "ann") is None
    inside = str(tree.root)
    assert touched
    for path in touched:
        assert os.path.normpath(path) == path, "a name with dots in its path"
        assert os.path.commonpath([inside, path]) == inside
        assert path.count("/") - inside.count("/") <= 3


def test_editors_leftovers_are_no_users(tree: Tree) -> None:
    for name in ("bob~", "#bob#", ".bob.swp", ".tmp-1-2", "BOB", "bob,v", "4913 "):
        tree.write(f"example.org/users/{name}", HASH)
    assert list(tree.directory.users("example.org")) == ["ann"]
    assert list(tree.directory.aliases("example.org")) == []
    assert tree.password("bob~") is None


# ---- malformed files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "line 1: expected a password hash"),
        ("\n", "line 1: expected a password hash"),
        ("# ann\n" + HASH, "line 1: expected a password hash"),
        (b"\xef\xbb\xbf" + HASH.encode(), "line 1: expected a password hash"),
        (b"\xff\n", "line 1: expected a password hash"),
        ("two words\n", "line 1: expected a password hash"),
        (HASH + "\nquota = lots\n", "line 2: quota: expected a size such as 500K, 50M or 1G"),
        (
            HASH + "\nquota_messages = -1\n",
            "line 2: quota_messages: expected a number of messages such as 5000",
        ),
        (HASH + "\nenabled = maybe\n", "line 2: enabled: expected yes or no"),
        (
            HASH + "\n\n# q\nqouta = 1G\n",
            "line 4: unknown key qouta; expected one of quota, quota_messages, enabled",
        ),
        (HASH + "\nquota\n", "line 2: expected key = value"),
        (HASH + "\nquota = 1G\nquota = 2G\n", "line 3: quota is set twice"),
        (HASH.encode() + b"\nquota = \xff\n", "line 2: quota: expected UTF-8 text"),
        (HASH + "\n" + "# long\n" * 10_000, "expected at most 65536 octets"),
    ],
)
def test_malformed_user_is_unavailable_and_alone(
    tree: Tree, events: list[dict[str, Any]], content: str | bytes, reason: str
) -> None:
    file = tree.write("example.org/users/bob", content)
    for _ in range(3):
        with pytest.raises(Unavailable) as raised:
            tree.directory.user("example.org", "bob")
        assert (raised.value.file, raised.value.reason) == (str(file), reason)
    assert events == [{"event": "directory-unavailable", "file": str(file), "reason": reason}]
    assert tree.password() == HASH
    file.write_text(HASH)
    assert tree.password("bob") == HASH


def test_settled_malformed_file_is_read_once(
    tree: Tree, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write("example.org/aliases/team", "")
    with pytest.raises(Unavailable):
        tree.directory.alias("example.org", "team")
    monkeypatch.setattr(cache, "read", lambda *_: pytest.fail("read again"))
    with pytest.raises(Unavailable, match="no target") as raised:
        tree.directory.alias("example.org", "team")
    assert raised.value.__traceback__ is not None


def test_each_version_of_a_malformed_file_is_logged(tree: Tree, events: list[dict[str, Any]]) -> None:
    for content in ("", "two words", "three more words"):
        tree.write("example.org/users/bob", content)
        for _ in range(2):
            with pytest.raises(Unavailable):
                tree.password("bob")
    assert len(events) == 3


def test_trouble_with_the_disk_passes_without_a_change(
    tree: Tree, later: None, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> int:
        raise OSError(5, "Input/output error", "/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken)
        for _ in range(3):
            with pytest.raises(Unavailable, match="Input/output error"):
                tree.password()
    assert len(events) == 1
    assert tree.password() == HASH


def test_odd_things_in_place_of_a_file_do_not_hang(tree: Tree) -> None:
    users = tree.root / "example.org/users"
    os.mkfifo(users / "fifo")
    (users / "folder").mkdir()
    (users / "device").symlink_to("/dev/zero")
    for local in ("fifo", "folder", "device"):
        with pytest.raises(Unavailable, match="expected a regular file"):
            tree.directory.user("example.org", local)


def test_a_link_in_circles_hides_no_domain(tree: Tree) -> None:
    (tree.root / "circle.test").symlink_to("circle.test")
    assert list(tree.directory.domains()) == ["example.org"]


def test_pipe_put_in_place_at_the_last_moment_does_not_hang(tree: Tree) -> None:
    os.mkfifo(tree.root / "fifo")
    with pytest.raises(cache.Malformed):
        cache.read(str(tree.root / "fifo"), 100)


def test_symbolic_links_are_the_operators_business(
    tree: Tree, later: None, events: list[dict[str, Any]]
) -> None:
    users = tree.root / "example.org/users"
    (users / "bob").symlink_to("ann")
    user = tree.directory.user("example.org", "bob")
    assert user and (user.local, user.password) == ("bob", HASH)
    (users / "ann").write_text(OTHER)
    assert tree.password("bob") == OTHER
    (users / "ann").unlink()
    for _ in range(3):
        with pytest.raises(Unavailable, match="a symbolic link to nothing"):
            tree.password("bob")
    assert [event["file"] for event in events] == [str(users / "bob")]
    (users / "ann").write_text(HASH)
    assert tree.password("bob") == HASH


def test_missing_disk_is_no_unknown_domain(tree: Tree, tmp_path: Path) -> None:
    assert tree.directory.domain("example.com") is None
    tree.root.rename(tmp_path / "elsewhere")
    for domain in ("example.org", "example.com"):
        with pytest.raises(Unavailable, match="no such directory"):
            tree.directory.domain(domain)
    (tmp_path / "elsewhere").rename(tree.root)
    (tree.root / "example.com").symlink_to("not-mounted")
    with pytest.raises(Unavailable, match="a symbolic link to nothing"):
        tree.directory.domain("example.com")
    tree.write("stray-file", "")
    assert tree.directory.domain("stray-file") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("x =", "Invalid value (at end of document)"),
        ("relay = true", "unknown key relay; expected one of catch_all, "),
        ("catch_all = 3", "catch_all: expected `str | null`, got `int`"),
        ('catch_all = "a b"', "catch_all: expected an address or a local part"),
        ('catch_all = ""', "catch_all: expected an address or a local part"),
        ("undeliverable_to_postmaster = 1", "undeliverable_to_postmaster: expected `bool`, got `int`"),
        ('quota = "1X"', "quota: expected a size such as 500K, 50M or 1G"),
        ("quota = -1", "quota: expected a size such as 500K, 50M or 1G"),
        ("quota_messages = -1", "quota_messages: expected `int` >= 0"),
        ('maildirs = "mail"', "maildirs: expected an absolute path"),
        (b"\xff = 1", "expected UTF-8 text"),
        ("x = " + "[" * 50_000, "maximum recursion depth"),
        ("#" * 70_000, "expected at most 65536 octets"),
    ],
)
def test_malformed_domain_is_unavailable(tree: Tree, content: str | bytes, reason: str) -> None:
    tree.write("example.org/domain.toml", content)
    tree.write("example.net/users/ann", HASH)
    for look_up in (tree.directory.user, tree.directory.alias):
        with pytest.raises(Unavailable) as raised:
            look_up("example.org", "ann")
        assert raised.value.reason.startswith(reason)
        assert raised.value.file == f"{tree.root}/example.org/domain.toml"
    assert tree.password("ann", "example.net") == HASH


# ---- what the files say


def test_user_file(tree: Tree) -> None:
    tree.write(
        "example.org/users/bob", f"{HASH}\r\n\r\n# his\r\n quota=5M \r\nquota_messages = 100\r\nenabled = no"
    )
    user = tree.directory.user("example.org", "bob")
    assert user is not None
    assert (user.password, user.quota, user.enabled) == (HASH, Quota(5 << 20, 100), False)
    assert user.address == "bob@example.org"
    assert HASH not in repr(user)


def test_domain_file(tree: Tree) -> None:
    tree.write(
        "example.org/domain.toml",
        'catch_all = "Ann"\nundeliverable_to_postmaster = true\nquota = 1000\nmaildirs = "/srv/mail"\n',
    )
    assert tree.directory.domain("example.org") == Domain(
        name="example.org",
        directory=f"{tree.root}/example.org",
        catch_all="Ann@example.org",
        postmaster_gets_undeliverable=True,
        quota=Quota(1000),
        maildirs="/srv/mail",
    )
    tree.write("example.org/domain.toml", 'catch_all = "x@bücher.example"')
    ours = tree.directory.domain("example.org")
    assert ours and ours.catch_all == "x@xn--bcher-kva.example"


def test_alias_file(tree: Tree) -> None:
    tree.write("example.org/aliases/team", "# all\n\nAnn\nbob@Example.NET\r\nAnn\n  eva@bücher.example  \n")
    assert tree.directory.alias("example.org", "TEAM") == (
        Address("Ann", "example.org"),
        Address("bob", "example.net"),
        Address("eva", "xn--bcher-kva.example"),
    )
    assert tree.directory.alias("example.org", "ann") is None
    assert tree.directory.user("example.org", "team") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("# nobody\n", "no target: expected one address or local part a line"),
        ("ann\nbob@\n", "line 2: expected an address or a local part"),
        ("ann, bob\n", "line 1: expected an address or a local part"),
        ("|/bin/sh\n", "line 1: expected an address or a local part"),
        ("ann\n/var/mail/ann\n", "line 2: expected an address or a local part"),
        (b"\xff\n", "line 1: expected an address or a local part"),
        ("".join(f"user{n}\n" for n in range(1001)), "more than 1000 targets"),
        ("#" * 600_000, "expected at most 524288 octets"),
    ],
)
def test_malformed_alias_is_unavailable(tree: Tree, content: str | bytes, reason: str) -> None:
    tree.write("example.org/aliases/team", content)
    with pytest.raises(Unavailable) as raised:
        tree.directory.alias("example.org", "team")
    assert raised.value.reason == reason
