"""One GET over HTTPS, for the policies of MTA-STS: bounded in size and time, without redirects.

The response is gathered by asyncio, so that no thread waits for a slow host, and read by `http.client`.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ssl

from mailserver.delivery.wire import Place


class HttpsError(Exception):
    """No usable response; the text says why, for the log."""


async def get(
    host: str, path: str, *, place: Place, context: ssl.SSLContext, limit: int, timeout: float
) -> tuple[str, bytes]:
    """Media type and body of `https://host/path`, asked at `place`. Raises HttpsError.

    `host` is what the certificate must be for; anything but status 200 is an error (RFC 8461 §3.3).
    """
    try:
        async with asyncio.timeout(timeout):
            data = await _exchange(host, path, place, context, limit)
    except TimeoutError:
        raise HttpsError("no answer in time") from None
    except ssl.SSLCertVerificationError as error:
        raise HttpsError(f"certificate: {error.verify_message}") from None
    except (OSError, ValueError):
        raise HttpsError("no connection") from None
    try:
        response = http.client.HTTPResponse(_Received(data))  # type: ignore[arg-type]
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ValueError):
        raise HttpsError("not an HTTP response") from None
    if response.status != 200:
        raise HttpsError(f"status {response.status}")
    return response.headers.get_content_type(), body


async def _exchange(host: str, path: str, place: Place, context: ssl.SSLContext, limit: int) -> bytes:
    reader, writer = await asyncio.open_connection(
        place.address, place.port, ssl=context, server_hostname=host
    )
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        data = b""
        while block := await reader.read(16 * 1024):
            data += block
            if len(data) > limit:
                raise HttpsError(f"more than {limit} octets")
        return data
    finally:
        writer.transport.abort()


class _Received:
    """Octets that `http.client` takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
