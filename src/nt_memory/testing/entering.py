"""Linux's calls for network namespaces; and, as a program, one that becomes another inside of one.

    python -I -S entering.py PARENT NAMESPACE PROGRAM ARGUMENT...

A namespace is of a thread, not of a process. So whoever makes or enters one does it on a thread that it gives up
afterwards, and a program enters before it becomes what it is to be. What runs inside is killed by the kernel
when its parent ends, even by `kill -9`: nobody needs to clean up. For the program's sake nothing of this
package is imported here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1


def leave() -> int:
    """Move the calling thread to a new network namespace, in which nothing is; a file that holds it.

    The namespace is there for as long as the file is open, or something runs in it.

    Raises:
        OSError: without CAP_SYS_ADMIN, or where no more namespaces may be made.
    """
    _call("unshare", _CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Move the calling thread to the network namespace that a file holds.

    Sockets that it makes from now on are of that namespace for good, whichever thread uses them, and so
    are programs that it starts.

    Raises:
        OSError: without CAP_SYS_ADMIN, or if the file is another one.
    """
    _call("setns", namespace, _CLONE_NEWNET)


def end_with(parent: int) -> None:
    """Have this process killed when the thread that started it ends.

    Raises:
        SystemExit: `parent`, the process that started it, has ended already.
    """
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        raise SystemExit(f"process {parent} has ended")


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*(ctypes.c_ulong(each) for each in arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def main() -> None:
    """Become PROGRAM, inside NAMESPACE, for no longer than PARENT lives."""
    parent, namespace, program, *arguments = sys.argv[1:]
    end_with(int(parent))
    held = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    enter(held)
    os.execvp(program, [program, *arguments])  # noqa: S606 - its caller's program, without a shell


if __name__ == "__main__":
    main()
