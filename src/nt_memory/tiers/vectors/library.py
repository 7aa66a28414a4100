"""faiss, loaded so that its idle threads sleep.

A thread of OpenMP that has done its part spins for 9 ms, should more come, before it sleeps. Where observations come
in batches 10 ms apart and are added by two threads, that was two thirds of a processor, and 1,500 observations a
second took 1.4 processors instead of 0.6 to 0.75; loading many takes as long asleep as spinning, and a fifth less of
both processors. GNU's OpenMP reads how to wait when it is loaded, and has no call for it later.

Somebody who has said how threads wait, or has imported faiss before, is left alone.
"""

from __future__ import annotations

import os
from typing import Any

_POLICY = "OMP_WAIT_POLICY"
_SAID = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def _load() -> Any:
    is_said = any(name in os.environ for name in _SAID)
    if not is_said:
        os.environ[_POLICY] = "passive"
    try:
        import faiss  # noqa: PLC0415 - what it reads when it is loaded was just said
    finally:
        # Only for this one: other libraries bring their own, and processes begun later read it too.
        if not is_said:
            del os.environ[_POLICY]
    return faiss


faiss: Any = _load()
