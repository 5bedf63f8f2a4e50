"""An operator's terminal, for a dialogue that asks and says: lines come in, lines go out.

A client that lets us edit its line sends keys, and sees what we write; any other (`nc`, `socat`) sends lines.
What is typed ahead waits, within bounds. Not here: where octets become keys and lines (`telnet`), what is
said (`dialogue`).
"""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from itertools import takewhile
from typing import Any

from rich.cells import cell_len

from mailserver.console.line_editor import LineEditor
from mailserver.console.tables import plain
from mailserver.transport.twisted import Transport

LINE = 4096  # characters of a line
AHEAD = 8 * 1024  # octets typed ahead, and one read more
WIDTHS = range(20, 501)  # of windows that we believe in
WIDTH = 80
NARROWEST = 8  # columns of a line that is typed

CTRL_C = b"\x03"
CTRL_D = b"\x04"
CTRL_L = b"\x0c"
TAB = b"\t"
ENTER = (b"\r", b"\n")

Complete = Callable[[str], Awaitable[Sequence[str]]]
"""What may stand in place of the last word of a text."""


class Interrupted(Exception):
    """Ctrl-C."""


class Terminal:
    """`editing` is whether keys come, else lines; `window` the columns there are to write in, if known."""

    def __init__(self, transport: Transport) -> None:
        self.editing = False
        self.known = asyncio.Event()
        """Set once it is decided which client this is."""
        self._transport = transport
        self._width = WIDTH
        self._items: deque[bytes] = deque()  # keys, or lines with their LF
        self._size = 0
        self._came = asyncio.Event()
        self._ended = self._gone = False
        self._asking = False
        self._watched = False  # something goes on that can be interrupted
        self._interrupted = asyncio.Event()

    @property
    def window(self) -> int | None:
        return self._width if self.editing else None

    @property
    def has_input(self) -> bool:
        """Something came that was not asked for yet."""
        return bool(self._items)

    # ---- what the client does

    def put(self, item: bytes) -> None:
        """A key or a line came. While nobody asks, Ctrl-C (or, from who sends lines, any) interrupts."""
        if self._ended:
            return
        self.known.set()
        if not self._asking and (item == CTRL_C or (not self.editing and self._watched)):
            self._drop()
            self._interrupted.set()
            return
        self._items.append(item)
        self._size += len(item)
        if self._size > AHEAD:
            self._transport.pauseProducing()
        self._came.set()

    def edit(self, editing: bool) -> None:
        """Whether the client sends keys from now on."""
        self.editing = editing
        self.known.set()

    def resize(self, width: int) -> None:
        self._width = width if width in WIDTHS else WIDTH

    def end(self) -> None:
        """No more input comes; what came is answered."""
        self._ended = True
        self.known.set()
        self._came.set()

    def hang_up(self) -> None:
        """The client is gone, and watches nothing any more."""
        self._drop()
        self.end()
        self._gone = True
        self._interrupted.set()

    # ---- what the dialogue does

    def say(self, lines: Iterable[str]) -> None:
        """Lines of text, in which no control character passes."""
        self._write("".join(plain(line) + "\r\n" for line in lines))

    def clear(self) -> None:
        """Go on at the top of an empty window, if it is one."""
        if self.editing:
            self._write("\x1b[H\x1b[J")

    async def flush(self) -> None:
        """Wait until the client takes more."""
        await self._transport.taken()

    async def ask(
        self,
        prompt: str,
        *,
        secret: bool = False,
        history: Sequence[str] = (),
        complete: Complete | None = None,
    ) -> str:
        """A line. Raises Interrupted, and EOFError when the client says no more."""
        editor = LineEditor(LINE, history)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._asking = True
        try:
            if not self.editing:
                self._write(prompt)
            while True:
                if not self._items:
                    self._show(prompt, editor, secret)
                item = await self._next()
                if len(item) > 1 and item.endswith(b"\n"):
                    return plain(item[:-1].decode("utf-8", "replace"))
                if item in ENTER:
                    return self._entered(prompt, editor, secret)
                if item == TAB:
                    await self._tab(editor, complete)
                elif not self._press(item, editor):
                    editor.insert(decoder.decode(item if len(item) == 1 else b""))
        finally:
            self._asking = False

    async def ask_secret(self, name: str) -> str:
        """A line that is not shown, by us at least."""
        seen = "" if self.editing else " (will be seen)"
        return await self.ask(f"{name}{seen}: ", secret=True)

    async def until_interrupted(self, work: Coroutine[Any, Any, None]) -> None:
        """Work until it is done, or the operator is tired of it; raises what it raises."""
        if not self._gone:
            self._interrupted.clear()
        if CTRL_C in self._items:
            self._drop()
            self._interrupted.set()
        self._watched = True
        task = asyncio.ensure_future(work)
        tired = asyncio.ensure_future(self._interrupted.wait())
        try:
            await asyncio.wait({task, tired}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._watched = False
            tired.cancel()
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    # ---- inside

    async def _next(self) -> bytes:
        while not self._items:
            if self._ended:
                raise EOFError
            self._came.clear()
            await self._came.wait()
        item = self._items.popleft()
        self._size -= len(item)
        if self._size <= AHEAD:
            self._transport.resumeProducing()
        return item

    def _drop(self) -> None:
        self._items.clear()
        self._size = 0
        self._transport.resumeProducing()

    def _press(self, key: bytes, editor: LineEditor) -> bool:
        if key == CTRL_C:
            self._write("^C\r\n")
            raise Interrupted
        if key == CTRL_D:
            if not editor.text:
                self._write("\r\n")
                raise EOFError
            editor.delete()
            return True
        if key == CTRL_L:
            self.clear()
            return True
        return editor.press(key)

    def _entered(self, prompt: str, editor: LineEditor, secret: bool) -> str:
        if self.editing:
            editor.end()
            self._show(prompt, editor, secret)
            self._write("\r\n")
        return editor.text

    def _show(self, prompt: str, editor: LineEditor, secret: bool) -> None:
        """The line as it is now; a long one as the part around the cursor."""
        if self.editing:
            before = cell_len(prompt)
            text, at = ("", 0) if secret else editor.shown(max(NARROWEST, self._width - before))
            forward = f"\x1b[{before + at}C"
            self._write(f"\r{prompt}{text}\x1b[K\r{forward}")

    async def _tab(self, editor: LineEditor, complete: Complete | None) -> None:
        if complete is None:
            editor.insert("    ")
            return
        before = editor.text[: editor.at]
        found = await complete(before)
        begun = before.rpartition(" ")[2]
        common = _beginning(found)
        if len(found) == 1:
            editor.replace(len(begun), common + " ")
        elif len(common) > len(begun):
            editor.replace(len(begun), common)
        elif found:
            self._write("\r\n")
            self.say(_columns(found, self._width))

    def _write(self, text: str) -> None:
        self._transport.write(text.encode("utf-8", "replace"))


def _beginning(words: Sequence[str]) -> str:
    """What all begin with."""
    first, last = min(words, default=""), max(words, default="")
    return "".join(c for c, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _columns(words: Sequence[str], width: int) -> list[str]:
    column = max(map(len, words)) + 2
    in_a_line = max(1, width // column)
    return [
        "".join(f"{word:<{column}}" for word in words[start : start + in_a_line]).rstrip()
        for start in range(0, len(words), in_a_line)
    ]
