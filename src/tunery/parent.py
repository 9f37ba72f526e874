"""What parent and child owe each other: a child ends with its parent, and computes without crowding the others.

The parent holds the other end of the child's standard input; when it dies, even by SIGKILL, the pipe closes.
"""

import os
import threading
from collections.abc import Callable

STDIN = 0
HARDLY_SPINNING = ("env", "GOMP_SPINCOUNT=3000")
"""Put before the command of a child that computes: its idle threads spin for microseconds and then sleep.

Trainer and engine share the cores; spinning on, either makes the other many times slower (docs/log.md).
"""


def follow(on_end: Callable[[], object], *, on_line: Callable[[bytes], object] | None = None) -> None:
    """Call `on_line` for each line the parent writes, and `on_end` once it is gone; from a thread of its own."""
    threading.Thread(target=_follow, args=(on_end, on_line), name="parent", daemon=True).start()


def _follow(on_end: Callable[[], object], on_line: Callable[[bytes], object] | None) -> None:
    # os.read, not sys.stdin: a daemon thread inside a buffered reader makes the interpreter abort at its exit.
    pending = b""
    while chunk := os.read(STDIN, 4096):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if on_line is not None:
                on_line(line)
    on_end()
