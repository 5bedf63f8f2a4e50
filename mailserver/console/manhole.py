"""A Python prompt for owners, in the process of the consoles: what the phrases cannot do, and looking inside.

Each statement is in the log before it runs. It runs on the event loop: one that does not return holds up all
operators, though no mail; `await` works, and Ctrl-C ends what is awaited. Tracebacks are shown here, and only
here: an owner reads the log and every file as well. Not here: who may (`dialogue`).

Twisted's own manhole imports its reactor, and knows neither coroutines nor our terminal.
"""

from __future__ import annotations

import ast
import codeop
import inspect
import io
import platform
import sys
import traceback
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn

from mailserver import maillog
from mailserver.admin.roles import Operator
from mailserver.console.terminal import Interrupted, Terminal

STATEMENT = 16 * 1024  # characters
LOGGED = 2000  # characters of a statement in a line of the log; a longer one takes several
OUTPUT = 256 * 1024  # characters that a statement may print
REMEMBERED = 200  # lines for the arrow keys


async def prompt(
    terminal: Terminal, operator: Operator, names: Mapping[str, object], allowed: Callable[[], bool]
) -> None:
    """Statements and what they print, until Ctrl-D or `exit()`; `names` is what they find.

    `allowed` is asked before each statement: an owner may be none any more.
    """
    _redirect()
    interpreter = _Interpreter(terminal, names)
    known = ", ".join(names)
    terminal.say([f"Python {platform.python_version()}; {known} and await work, exit() or Ctrl-D goes back."])
    history: deque[str] = deque(maxlen=REMEMBERED)
    source = ""
    while True:
        try:
            line = await terminal.ask("... " if source else ">>> ", history=tuple(history))
        except Interrupted:
            source = ""
            continue
        except EOFError:
            return
        if line:
            history.append(line)
        source = f"{source}\n{line}" if source else line
        if not interpreter.is_complete(source):
            continue
        if not allowed():
            return
        if source.strip():
            _journal(operator, source)
            if await interpreter.run(source):
                return
        source = ""


def _journal(operator: Operator, source: str) -> None:
    for start in range(0, len(source), LOGGED):
        maillog.event("python", operator=operator.name, statement=source[start : start + LOGGED])


class _Interpreter:
    """One prompt's names, and the running of its statements."""

    def __init__(self, terminal: Terminal, names: Mapping[str, object]) -> None:
        self._terminal = terminal
        self._names: dict[str, Any] = {"__name__": "__console__", **names, "exit": _exit, "quit": _exit}
        self._complete = codeop.CommandCompiler()
        self._complete.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def is_complete(self, source: str) -> bool:
        """Whether it can be run, or will never be right."""
        if len(source) > STATEMENT:
            return True
        try:
            return self._complete(source, "<console>", "single") is not None
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
            return True

    async def run(self, source: str) -> bool:
        """Carry out a statement, and show what came of it; True if it wants to leave."""
        outcome: list[BaseException] = []
        if len(source) > STATEMENT:
            self._terminal.say([f"a statement has at most {STATEMENT} characters"])
            return False

        async def work() -> None:
            """Nothing passes out of here: a task that ends by SystemExit ends the event loop."""
            try:
                await self._run(source)
            except CancelledError:
                raise
            except BaseException as error:
                outcome.append(error)

        output = _Printed(self._terminal)
        token = _printed.set(output)
        try:
            await self._terminal.until_interrupted(work())
        finally:
            _printed.reset(token)
            output.close()
        if outcome and not isinstance(outcome[0], SystemExit):
            self._terminal.say(_explained(outcome[0]))
        return bool(outcome) and isinstance(outcome[0], SystemExit)

    async def _run(self, source: str) -> None:
        tree = ast.parse(source, "<console>")
        shows = bool(tree.body) and isinstance(tree.body[-1], ast.Expr)
        if shows:
            tree.body[-1] = _kept(tree.body[-1])
        compiled = compile(tree, "<console>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(compiled, self._names)  # noqa: S307 - this is what an owner asks for
        if inspect.iscoroutine(result):
            await result
        if shows and self._names["_"] is not None:
            print(repr(self._names["_"]))


def _kept(expression: ast.stmt) -> ast.stmt:
    """`_ = expression`"""
    assert isinstance(expression, ast.Expr)
    name = ast.copy_location(ast.Name("_", ast.Store()), expression)
    return ast.copy_location(ast.Assign([name], expression.value), expression)


def _exit() -> NoReturn:
    raise SystemExit


def _explained(error: BaseException) -> list[str]:
    """The traceback, without our own frames."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename != "<console>":
        place = place.tb_next
    text = "".join(traceback.format_exception(type(error), error, place))
    return text[:OUTPUT].splitlines()


# ---- what is printed


class _Printed(io.TextIOBase):
    """Shows what a statement prints, in lines, and so much of it."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._begun = ""
        self._left = OUTPUT

    def write(self, text: str) -> int:
        if self._left > 0:
            *whole, self._begun = (self._begun + text[: self._left]).split("\n")
            self._terminal.say(whole)
            self._left -= len(text)
            if self._left <= 0:
                self._terminal.say([self._begun, "(more was printed)"])
                self._begun = ""
        return len(text)

    def close(self) -> None:
        if self._begun:
            self._terminal.say([self._begun])
            self._begun = ""
        super().close()


_printed: ContextVar[io.TextIOBase | None] = ContextVar("printed", default=None)


class _Output(io.TextIOBase):
    """Standard output: that of the statement that prints, else the process's own."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def write(self, text: str) -> int:
        printed = _printed.get()
        if printed is None or printed.closed:
            return int(self._own.write(text))
        return printed.write(text)

    def flush(self) -> None:
        self._own.flush()


def _redirect() -> None:
    """From the first prompt on; each statement has its own context, so prompts do not mix."""
    if not isinstance(sys.stdout, _Output):
        sys.stdout = _Output(sys.stdout)
