"""Fuzz targets: every codec that reads octets from outside, each with what must hold for any octets at all.

A target takes octets and raises AssertionError, or anything the codec may not raise. As a program this runs
one of them under atheris, which looks for octets that reach new code (`pip install atheris`):

    PYTHONPATH=tests python tests/fuzz/fuzz_codecs.py decoder -max_total_time=60

(`all` for all of them at once.)

Not here: the tests that run all of them (`test_fuzz_codecs`).
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mailserver.directory import aliases, domains, names, users
from mailserver.directory.entries import Malformed
from mailserver.mail import path, sasl
from mailserver.mail.address import Address, AddressError, fold_local, parse_mailbox
from mailserver.mail.lines import Decoder
from mailserver.mail.path import PathError
from mailserver.mail.quota import Quota
from mailserver.mailbox import dovecot, quota, uidl, wire
from mailserver.mailbox.maildir import Maildir
from mailserver.transport import endpoint, proxy
from mailserver.transport.lines import Lines, LineTooLong

Target = Callable[[bytes], object]


def segments(data: bytes) -> tuple[bytes, list[bytes]]:
    """The first octets say how the rest is cut: the rest, and its pieces."""
    sizes, rest = data[:4], data[4:]
    pieces, at = [], 0
    for number in range(len(rest)):
        size = 1 + (sizes[number % len(sizes)] % 16)
        if at >= len(rest):
            break
        pieces.append(rest[at : at + size])
        at += size
    return rest, pieces


def decoder(data: bytes) -> None:
    """DATA: against RFC 5321 §4.5.2 read line by line, and cut anywhere."""
    data, pieces = segments(data)
    lines, content, ended = (b"\r\n" + data).split(b"\r\n")[1:], b"", False
    while len(lines) > 1 and not ended:
        line = lines.pop(0)
        ended = line == b"."
        content += b"" if ended else line.removeprefix(b".") + b"\r\n"
    rest = b"\r\n".join(lines)
    lone = content.replace(b"\r\n", b"")
    good = not any(octet in lone for octet in b"\r\n\0")
    for cut in ([data], pieces):
        decode = Decoder(dots=True)
        got, behind = b"", b""
        for piece in cut:
            if decode.ended:
                behind += piece
                continue
            some, after = decode.feed(piece)
            got += some
            behind += after
        assert decode.ended == ended
        if not ended:
            continue
        assert behind == rest
        assert (decode.fault is None) == good
        assert not good or got == content.replace(b"\r\n", b"\n")
        assert decode.wire_size == len(content)


def chunks(data: bytes) -> None:
    """BDAT: no dots, and a last line may lack its end."""
    data, pieces = segments(data)
    content = data if data.endswith(b"\r\n") or not data else data + b"\r\n"
    good = not any(octet in data.replace(b"\r\n", b"") for octet in b"\r\n\0")
    decode = Decoder(dots=False)
    got = b"".join(decode.feed(piece)[0] for piece in pieces) + decode.finish()
    assert (decode.fault is None) == good
    assert not good or got == content.replace(b"\r\n", b"\n")
    assert not good or decode.wire_size == len(content)


def paths(data: bytes) -> None:
    """Arguments of MAIL and RCPT: whatever is taken for an address is one when written again."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (path.forward_path, path.reverse_path):
        with contextlib.suppress(PathError):
            found, parameters = read(text)
            assert len(parameters) <= path.PARAMETERS
            if isinstance(found, Address):
                _one_spelling(found)


def address(data: bytes) -> None:
    with contextlib.suppress(AddressError):
        _one_spelling(parse_mailbox(data.decode("utf-8", "surrogateescape")))


def _one_spelling(found: Address) -> None:
    text = str(found)
    assert "\r" not in text
    assert "\n" not in text
    assert found.domain == found.domain.lower() or found.domain.startswith("[")
    if not found.domain.startswith("["):
        assert parse_mailbox(text) == found


def proxy_header(data: bytes) -> None:
    """Complete, incomplete or impossible: and the same however much of it has come."""
    for length in range(len(data) + 1):
        try:
            header = proxy.parse(data[:length])
        except proxy.ProxyError:
            return
        if header is not None:
            assert header.length <= length
            assert proxy.parse(data) == header
            assert proxy.parse(data[: header.length]) == header
            return
    assert len(data) < max(proxy.MAX_V1, proxy.MAX_V2 + 16)


def user_file(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        read = users.parse(data)
        assert users.parse(users.with_password(data, "$new$hash")) == read._replace(password="$new$hash")
        assert users.parse(users.with_settings(data, {"quota": "5K"})) == read._replace(quota=5120)


def alias_file(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        targets = aliases.parse(data, "example.test")
        assert 0 < len(targets) <= aliases.MOST_TARGETS
        assert aliases.parse(aliases.render(targets, "example.test"), "example.test") == targets


def domain_file(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        domains.parse(data, "example.test", "/nowhere")


def file_name(data: bytes) -> None:
    """A key of the directory database is one file name, in the directory and nowhere else."""
    text = data.decode("utf-8", "surrogateescape")
    key = names.decode(text)
    assert key is None or names.encode(key) == text
    with contextlib.suppress(ValueError):
        name = names.encode(fold_local(text))
        assert "/" not in name
        assert "\0" not in name
        assert not name.startswith(".")
        assert names.decode(name) == fold_local(text)


@contextlib.contextmanager
def _mailbox(file: str, data: bytes) -> Iterator[Maildir]:
    """A mailbox that somebody has put such a file into."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        for name in ("tmp", "new", "cur"):
            Path(root, name).mkdir()
        Path(root, file).write_bytes(data)
        yield Maildir(root)


def dovecot_uidlist(data: bytes) -> None:
    for content in (data, b"3 V1 N9\n" + data):
        with _mailbox(dovecot.FILE, content) as maildir:
            for found in dovecot.listed(maildir.path):
                assert "/" not in found.unique
            _unique_ids(maildir)


def pop3_uidl(data: bytes) -> None:
    with _mailbox(uidl.FILE, uidl.HEADER + data) as maildir:
        _unique_ids(maildir)


def _unique_ids(maildir: Maildir) -> None:
    """RFC 1939 §7, and the same ids again."""
    uniques = ["a", "b", "1.M2.host", "x" * 80]
    ids = uidl.unique_ids(maildir, uniques)
    assert len(set(ids)) == len(uniques)
    assert all(1 <= len(one) <= 70 and all("!" <= c <= "~" for c in one) for one in ids)
    assert uidl.unique_ids(maildir, uniques) == ids


def maildirsize(data: bytes) -> None:
    for content in (data, b"1000S,10C\n" + data):
        with _mailbox(quota.FILE, content) as maildir:
            usage = quota.usage(maildir, Quota(1000, 10))
            assert min(usage) >= 0
            assert isinstance(quota.is_over(maildir, Quota(1000, 10), 1), bool)
            quota.add(maildir, 1, 1)


def command_lines(data: bytes) -> None:
    """The same lines however they are cut, none over the limit, and nothing held that is longer."""
    data, pieces = segments(data)
    outcomes = []
    for cut in ([data], pieces):
        lines, found = Lines(20), list[bytes | None]()
        for piece in cut:
            lines.feed(piece)
            while lines.ready:
                try:
                    found.append(lines.next())
                except LineTooLong:
                    found.append(None)
            assert lines.left < 20
        assert all(line is None or len(line) < 20 for line in found)
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]


def wire_form(data: bytes) -> None:
    """Stored octets as POP3 sends them: CRLF lines, dots doubled, the same at every block size."""
    data, pieces = segments(data)
    waiting = iter([*pieces, b""])
    cut = b"".join(wire.blocks(lambda _: next(waiting, b""), dot_stuffed=True))
    waiting = iter([data, b""])
    assert cut == b"".join(wire.blocks(lambda _: next(waiting, b""), dot_stuffed=True))
    assert cut.endswith(b"\r\n") or not data
    assert b"\n" not in cut.replace(b"\r\n", b"")
    assert b"\r\n.\r\n" not in b"\r\n" + cut, "a message that ends itself"


def sasl_plain(data: bytes) -> None:
    with contextlib.suppress(sasl.Malformed):
        sasl.plain(data)


def endpoint_text(data: bytes) -> None:
    with contextlib.suppress(endpoint.EndpointError, UnicodeDecodeError):
        read = endpoint.parse(data.decode())
        assert endpoint.parse(str(read)) == read


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(decoder, chunks, paths, address, proxy_header, user_file, alias_file, domain_file, file_name),
        *(dovecot_uidlist, pop3_uidl, maildirsize, command_lines, wire_form, sasl_plain, endpoint_text),
    )
}
# Where to begin: octets that reach the far end of a codec.
SEEDS: dict[str, list[bytes]] = {
    "decoder": [b"\1\2\3\4one\r\n..two\r\n.\r\nQUIT\r\n", b"\0\0\0\0\r\n.\r\r\n.\n.\r\n.\r\n"],
    "chunks": [b"\1\1\1\1a\r\n.\r\nb\r", b"\2\2\2\2x\ny\0"],
    "paths": [
        b'<"a\\"b"@b\xc3\xbccher.example> SIZE=5 NOTIFY=NEVER',
        "<a@bücher.> SIZE=5".encode(),
        b"<@a,@b:c@d>",
        b"<x@[IPv6:::1]>",
        b"<>",
    ],
    "address": [b'"a b"@example.test', "ä@bücher.example".encode(), b"a.b+c@xn--bcher-kva.example"],
    "proxy_header": [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1 25\r\nEHLO",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\1\2\3\4\5\6\7\x08\0\1\0\x19",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ],
    "user_file": [b"$hash\nquota = 1G\n# no\nenabled = no\n", b"{PLAIN}x\r\nquota_messages=5"],
    "alias_file": [b'"#no comment"\n"#2"\n', b"ann\n# x\nbob@example.org\n", b'"a b"\r\n'],
    "domain_file": [
        b'catch_all = "all"\nquota = "1G"\nmaildirs = "/x"\n',
        b"undeliverable_to_postmaster = true",
    ],
    "file_name": [b"ann", b"..", b"a/b", b"a%20b", "ä".encode()],
    "dovecot_uidlist": [b"3 V1275660208 N25022 G3085f01b\n1 P12345 W100 :a\n2 :b\n3 P12345 :1.M2.host\n"],
    "pop3_uidl": [b"id1 a\nid1 b\n" + b"y" * 80 + b" a\n"],
    "maildirsize": [b"1000S,10C\n500 2\n-100 -1\n", b"\n", b"5 5"],
    "command_lines": [
        b"\1\2\3\4NOOP\r\n" + b"x" * 30 + b"\r\nQUIT\r\n",
        b"\7\7\7\7" + b"x" * 18 + b"\r\n\n\r",
    ],
    "wire_form": [b"\1\2\3\4a\n.b\r\n..\r\r\n.", b"\0\0\0\0.\n.\n"],
    "sasl_plain": [b"AGFubgBvcGVuIHNlc2FtZQ==", b"=", b"AAA="],
    "endpoint_text": [b"tcp:[::1]:25", b"unix:/run/x:mode=660", b"tls:*:465", b"fd+tls:name"],
}


def any_of_them(data: bytes) -> None:
    """The first octet chooses the target."""
    if data:
        list(TARGETS.values())[data[0] % len(TARGETS)](data[1:])


def main() -> None:
    import atheris

    for name in [name for name in sys.modules if name.partition(".")[0] == "mailserver"]:
        del sys.modules[name]  # imported anew, so that atheris sees which of it is reached
    with atheris.instrument_imports(include=["mailserver"]):
        from fuzz import fuzz_codecs
    target = fuzz_codecs.TARGETS.get(sys.argv[1], fuzz_codecs.any_of_them)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
