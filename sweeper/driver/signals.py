"""Ctrl-C and SIGTERM while a sweep runs."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Signals", "ended_by_signals", "interrupted_by_sigterm", "noticing_signals"]

WAIT_S = 3.0
"""How long a library may take after a signal before the user reads that the command waits for it."""


class Signals:
    """Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Count a signal; the second one interrupts at once."""
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Signals]:
    """Handle Ctrl-C and SIGTERM inside the context; only the main thread of a process can."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C as long as nothing runs yet that would need an orderly end.

    Ray replaces the handler when it starts, and exits with the number of the signal.

    Raises:
        KeyboardInterrupt: When the signal arrives. Only the main thread of a process can handle it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def noticing_signals(
    on_wait: Callable[[], object] = bool, on_second: Callable[[], object] = bool
) -> Iterator[None]:
    """Let no Ctrl-C and no SIGTERM get lost in a library that catches every exception, as Ray does.

    Args:
        on_wait: Called in another thread if the library has not returned some seconds after a signal.
        on_second: Called there at the second signal.

    Raises:
        KeyboardInterrupt: When a signal arrives; again at the end if something inside caught it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    with _heard_at_once(on_wait, on_second):
        before = signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    if arrived:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _heard_at_once(on_wait: Callable[[], object], on_second: Callable[[], object]) -> Iterator[None]:
    """Have a thread hear of signals: a handler runs only when the main thread returns to Python."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        heard = 0
        while True:
            try:
                number = ours.recv(1)
            except TimeoutError:
                ours.settimeout(None)
                on_wait()
                continue
            if not number:
                return
            heard += number[0] in (signal.SIGINT, signal.SIGTERM)
            if heard == 1:
                ours.settimeout(WAIT_S)
            elif heard:
                on_second()

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()  # ends the thread
        thread.join()
        ours.close()
