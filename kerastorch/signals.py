"""Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ERASE = b"\x1b[J"  # on a terminal, the bars below
_NOTE = b"\nCtrl-C: this batch is finished first; press it again to stop at once.\n"


@contextmanager
def graceful_interrupt(first: Callable[[], Any]) -> Iterator[None]:
    """The first Ctrl-C calls `first`, the second does what it always did.

    Only in the main thread: signals reach no other. Afterwards all is as before.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield  # somebody else handles Ctrl-C, or nobody does: leave it so
        return

    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            return  # a worker that was forked: the process that trains decides
        signal.signal(signal.SIGINT, before)
        os.write(2, _ERASE * os.isatty(2) + _NOTE)  # print is not safe here: it may have been interrupted itself
        first()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
