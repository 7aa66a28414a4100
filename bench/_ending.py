"""A benchmark that is told to end stops its servers first: by Ctrl-C, once or more, or by SIGTERM."""

from __future__ import annotations

import signal


def end_by_signals() -> None:
    """Take the first of these signals as `KeyboardInterrupt`, and no other after it.

    SIGTERM is what `timeout` sends. Where a shell had Ctrl-C ignored, it counts all the same. Out of
    `asyncio.run`, all tasks are cancelled and their `finally` blocks reached; whoever is impatient and
    presses again does not cut those short.
    """

    def end(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
