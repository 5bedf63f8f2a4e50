"""Asking another process of the server: a line to its socket, and the line that it answers.

Not here: what is said (`inside`, `admin.requests`).
"""

from __future__ import annotations

import asyncio

MOST = 64 << 20  # octets of an answer


async def ask(path: str, line: bytes, within: float) -> bytes:
    """Say `line`, and return the answer. Raises OSError: nobody is there, or not `within` seconds."""
    async with asyncio.timeout(within):
        reader, writer = await asyncio.open_unix_connection(path, limit=MOST)
        try:
            writer.write(line)
            answer = await reader.readline()
        except ValueError:  # longer than MOST
            answer = b""
        finally:
            writer.close()
    if not answer.endswith(b"\n"):
        raise ConnectionResetError
    return answer
