"""Loading modules without the collector of garbage: they keep what they make, and looking at all of it again
and again is a quarter of the time that loading takes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading(module: str) -> Iterator[None]:
    """While `module` is loaded, if it is not yet; what is there at the end is never looked at again."""
    if module in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
