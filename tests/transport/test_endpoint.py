"""Endpoints: what may be written, and what is bound."""

from __future__ import annotations

import os
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.transport.endpoint import Endpoint, EndpointError, bind, parse


@pytest.fixture
def bound():
    sockets = []

    def bound(text, inherited=None):
        fresh = bind(parse(text), inherited)
        sockets.extend(fresh)
        return fresh

    yield bound
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize(
    ("text", "endpoint", "canonical"),
    [
        ("tcp:127.0.0.1:25", Endpoint("tcp", "127.0.0.1", 25), None),
        ("tcp:mx.example.test:25", Endpoint("tcp", "mx.example.test", 25), None),
        ("tcp:[::1]:25", Endpoint("tcp", "::1", 25), None),
        ("tcp:[0:0::1]:25", Endpoint("tcp", "::1", 25), "tcp:[::1]:25"),
        ("tcp::25", Endpoint("tcp", "*", 25), "tcp:*:25"),
        ("tcp:25", Endpoint("tcp", "*", 25), "tcp:*:25"),
        ("tls:*:465", Endpoint("tcp", "*", 465, tls=True), None),
        ("unix:/run/x.sock", Endpoint("unix", "/run/x.sock"), None),
        ("unix:/run/a:b:mode=660", Endpoint("unix", "/run/a:b", mode=0o660), None),
        ("unix:/run/x:mode=0600", Endpoint("unix", "/run/x"), "unix:/run/x"),
        ("fd:3", Endpoint("fd", "3"), None),
        ("fd+tls:smtps.socket", Endpoint("fd", "smtps.socket", tls=True), None),
    ],
)
def test_forms(text, endpoint, canonical):
    assert parse(text) == endpoint
    assert str(endpoint) == (canonical or text)
    assert parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "tcp:HOST:PORT"),
        ("25", "tcp:HOST:PORT"),
        ("udp:1.2.3.4:25", "tcp:HOST:PORT"),
        ("tcp:127.0.0.1", "port"),
        ("tcp:127.0.0.1:smtp", "port"),
        ("tcp:127.0.0.1:65536", "port"),
        ("tcp:127.0.0.1:²5", "port"),
        ("tcp:::1:25", "brackets"),
        ("tcp:[127.0.0.1]:25", "no IP address"),
        ("tcp:127.0.0.256:25", "no IP address"),
        ("tcp:a b:25", "host name"),
        ("unix:relative", "absolute path"),
        ("unix:/" + "x" * 107, "107 octets"),
        ("unix:/x:mode=1777", "mode"),
        ('unix:/tmp/x"\n[evil]\n', "absolute path"),
        ("unix:/tmp/\x1b[2J", "absolute path"),
        ("fd:", "number or name"),
        ("fd:a:b", "number or name"),
    ],
)
def test_errors_name_the_form(text, hint):
    with pytest.raises(EndpointError) as caught:
        parse(text)
    assert hint in str(caught.value)


@given(
    st.one_of(
        st.text(max_size=40),
        st.builds(
            "{}:{}:{}".format,
            st.sampled_from(["tcp", "tls", "unix", "fd", "fd+tls"]),
            st.text(alphabet="*[]:./ab1-_é\0", max_size=20),
            st.text(alphabet="0125=mode", max_size=8),
        ),
    )
)
def test_any_text_is_refused_or_comes_back(text):
    try:
        endpoint = parse(text)
    except EndpointError:
        return
    assert parse(str(endpoint)) == endpoint


def test_all_addresses_share_a_port(bound):
    families = {sock.family: sock for sock in bound("tcp:*:0")}
    port = families[socket.AF_INET].getsockname()[1]
    socket.create_connection(("127.0.0.1", port)).close()
    if not socket.has_ipv6 or socket.AF_INET6 not in families:
        pytest.skip("no IPv6 on this machine")
    assert families[socket.AF_INET6].getsockname()[1] == port
    socket.create_connection(("::1", port)).close()


def test_a_name_stands_for_its_addresses(bound, monkeypatch):
    answer = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),  # not of this machine
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    names = [sock.getsockname() for sock in bound("tcp:mx.example.test:0")]
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
    assert names[0][1] == names[1][1]


def test_accepted_connections_do_not_wait_for_acknowledgements(bound):
    (sock,) = bound("tcp:127.0.0.1:0")
    with socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_taken_port(bound):
    (sock,) = bound("tcp:127.0.0.1:0")
    text = f"tcp:127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(EndpointError, match=f"{text}: Address already in use"):
        bound(text)


def test_foreign_address(bound):
    with pytest.raises(EndpointError, match="Cannot assign"):
        bound("tcp:192.0.2.1:0")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_socket_file_has_its_mode_and_never_more(bound, tmp_path, monkeypatch, umask):
    path = tmp_path / "sock"
    before = []
    chmod = os.chmod
    monkeypatch.setattr(
        os, "chmod", lambda name, mode: (before.append(stat.S_IMODE(path.stat().st_mode)), chmod(name, mode))
    )
    old = os.umask(umask)
    try:
        bound(f"unix:{path}:mode=660")
    finally:
        os.umask(old)
    assert before and not before[0] & ~0o660
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_default_mode_is_private(bound, tmp_path):
    bound(f"unix:{tmp_path}/sock")
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o600


def test_stale_socket_file_is_replaced(bound, tmp_path):
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
    bound(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_live_socket_file_stays(bound, tmp_path):
    path = str(tmp_path / "sock")
    bound(f"unix:{path}")
    with pytest.raises(EndpointError, match="another server"):
        bound(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_other_files_stay(bound, tmp_path):
    path = tmp_path / "mail"
    path.write_text("precious")
    with pytest.raises(EndpointError, match="no socket"):
        bound(f"unix:{path}")
    assert path.read_text() == "precious"


def test_missing_directory(bound, tmp_path):
    with pytest.raises(EndpointError, match="No such file"):
        bound(f"unix:{tmp_path}/missing/sock")


def test_inherited_by_name_and_number(bound):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        adopted = bound("fd:smtp", {"smtp": (one.fileno(), two.fileno())})
        assert [sock.getsockname() for sock in adopted] == [one.getsockname(), two.getsockname()]
        (by_number,) = bound(f"fd:{one.fileno()}")
        assert by_number.getsockname() == one.getsockname()
        assert by_number.gettimeout() == 0
        adopted[0].close()  # the inherited one lives on, and can be bound again after a reload
        assert bound("fd:smtp", {"smtp": (one.fileno(),)})


def test_inherited_wrongly(bound, tmp_path):
    with pytest.raises(EndpointError, match=r"fd:smtp: no descriptor of that name.*passed: pop3"):
        bound("fd:smtp", {"pop3": (3,)})
    with pytest.raises(EndpointError, match="not open"):
        bound("fd:999999")
    with pytest.raises(EndpointError, match="not open"):
        bound("fd:" + "9" * 30)
    with open(tmp_path / "file", "w") as file, pytest.raises(EndpointError, match="no socket"):
        bound(f"fd:{file.fileno()}")
    with socket.socket() as idle, pytest.raises(EndpointError, match="no listening"):
        bound(f"fd:{idle.fileno()}")
