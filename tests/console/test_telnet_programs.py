"""The telnet console with what operators have: Debian's telnet at a terminal, socat and netcat in scripts."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios
from types import SimpleNamespace

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from programs import environment, need
from serving import PASSWORD
from telnet_client import UP, TelnetClient

from mailserver.console import telnet

SCRIPT = f"owen\n{PASSWORD}\ndomain list\nwhoami\nlogout\n"


class Typist(TelnetClient):
    """Somebody at a terminal in which a program runs."""

    def enter(self, text: str) -> None:
        self.type(text + "\r")


class Tty(asyncio.Protocol):
    """The far side of a pseudo-terminal: EIO is how it says that the program is gone."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reader.feed_eof()


async def _at_a_terminal(home, size, *command):
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    program = await asyncio.create_subprocess_exec(
        *command,
        stdin=far,
        stdout=far,
        stderr=far,
        env={**environment(home), "TERM": "vt100"},
        start_new_session=True,
    )
    os.close(far)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: Tty(reader), os.fdopen(near, "rb", 0))
    writer = SimpleNamespace(write=lambda data: os.write(near, data))
    return program, Typist(reader, writer, speaks=False)


def test_telnet(office, tmp_path):
    program_path = need("telnet")

    async def whole():
        with office.listening("tcp:127.0.0.1:0", telnet) as listener:
            program, client = await _at_a_terminal(
                tmp_path, (60, 20), program_path, "127.0.0.1", str(listener.port)
            )
            await client.log_in("owen", PASSWORD)
            assert (await client.ask("domain list"))[1].split() == ["example.test", "1", "0"]
            client.type("dom\tsh\tother.test\r")
            await client.until_shown(r"domain +other\.test")
            await client.until("> $")
            client.type(UP + UP)
            await client.until("> domain list$")
            client.type("\x15")
            shown = await client.ask("help")
            assert 40 < max(map(len, shown)) <= 60  # its window
            client.enter("events")
            async with asyncio.timeout(10):
                while not office.server.readers:
                    await asyncio.sleep(0.01)
            office.server.log("a line of the log")
            await client.until_shown("a line of the log")
            client.type("\x03")
            await client.until("> $")
            client.enter("logout")
            await client.until_shown("Connection closed by foreign host")
            assert await program.wait() is not None
            assert PASSWORD not in client.seen
            await office.connections.wait_empty()

    asyncio.run(whole())


async def _piped(home, *command) -> str:
    program = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment(home)
    )
    async with asyncio.timeout(30):
        said, _ = await program.communicate(SCRIPT.encode())
    return said.decode("latin-1")


@pytest.mark.parametrize(
    "command",
    [
        ("socat", "-t10", "-", "TCP:127.0.0.1:{port}"),
        ("nc", "-N", "127.0.0.1", "{port}"),
        ("nc", "127.0.0.1", "{port}"),
    ],
)
def test_scripts(office, tmp_path, command):
    program, *arguments = command

    async def whole():
        with office.listening("tcp:127.0.0.1:0", telnet) as listener:
            filled = (argument.format(port=listener.port) for argument in arguments)
            said = await _piped(tmp_path, need(program), *filled)
        assert "example.test  1      0\r\n" in said and said.endswith("Goodbye.\r\n")
        assert "\x1b" not in said

    asyncio.run(whole())


def test_socat_on_a_unix_socket(office, tmp_path):
    async def whole():
        path = tmp_path / "telnet.sock"
        with office.listening(f"unix:{path}", telnet):
            said = await _piped(tmp_path, need("socat"), "-t10", "-", f"UNIX:{path}")
        assert "example.test  1      0\r\n" in said and "Login" not in said

    asyncio.run(whole())
