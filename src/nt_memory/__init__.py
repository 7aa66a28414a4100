"""Memory for swarms of trading agents: state, similar situations, reasoning, coordination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nt_memory.clock import ManualClock, SystemClock
    from nt_memory.codec import thaw
    from nt_memory.config import CacheConfig, MemoryConfig
    from nt_memory.coordination.proposals import Approved, Pending, Proposal, Rejected, Vote
    from nt_memory.coordination.tokens import LockToken
    from nt_memory.errors import NtMemoryError
    from nt_memory.namespace import Namespace
    from nt_memory.reasoningbank import (
        Advice,
        Pattern,
        ReasoningBank,
        Tolerance,
        Trajectory,
        Verdict,
    )
    from nt_memory.records import (
        AsOf,
        Change,
        Explanation,
        Hit,
        MemoryStats,
        Policy,
        Quota,
        Record,
        ReembedResult,
        SearchStep,
        Usage,
    )
    from nt_memory.system import MemorySystem
    from nt_memory.system.exporting import export_store
    from nt_memory.system.importing import import_store
    from nt_memory.system.memory_map import MemoryMap
    from nt_memory.system.sync import SyncMemory
    from nt_memory.timeline import session_close

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Approved",
    "AsOf",
    "CacheConfig",
    "Change",
    "Explanation",
    "Hit",
    "LockToken",
    "ManualClock",
    "MemoryConfig",
    "MemoryMap",
    "MemoryStats",
    "MemorySystem",
    "Namespace",
    "NtMemoryError",
    "Pattern",
    "Pending",
    "Policy",
    "Proposal",
    "Quota",
    "ReasoningBank",
    "Record",
    "ReembedResult",
    "Rejected",
    "SearchStep",
    "SyncMemory",
    "SystemClock",
    "Tolerance",
    "Trajectory",
    "Usage",
    "Verdict",
    "Vote",
    "export_store",
    "import_store",
    "session_close",
    "thaw",
]

# Where the names above are: imported when first asked for, so that what needs few of them, as
# `nt-memory --help` does, starts ten times as quickly.
_PLACES = {
    "nt_memory.clock": (
        "ManualClock",
        "SystemClock",
    ),
    "nt_memory.codec": ("thaw",),
    "nt_memory.config": (
        "CacheConfig",
        "MemoryConfig",
    ),
    "nt_memory.coordination.proposals": (
        "Approved",
        "Pending",
        "Proposal",
        "Rejected",
        "Vote",
    ),
    "nt_memory.coordination.tokens": ("LockToken",),
    "nt_memory.errors": ("NtMemoryError",),
    "nt_memory.namespace": ("Namespace",),
    "nt_memory.reasoningbank": (
        "Advice",
        "Pattern",
        "ReasoningBank",
        "Tolerance",
        "Trajectory",
        "Verdict",
    ),
    "nt_memory.records": (
        "AsOf",
        "Change",
        "Explanation",
        "Hit",
        "MemoryStats",
        "Policy",
        "Quota",
        "Record",
        "ReembedResult",
        "SearchStep",
        "Usage",
    ),
    "nt_memory.system": ("MemorySystem",),
    "nt_memory.system.exporting": ("export_store",),
    "nt_memory.system.importing": ("import_store",),
    "nt_memory.system.memory_map": ("MemoryMap",),
    "nt_memory.system.sync": ("SyncMemory",),
    "nt_memory.timeline": ("session_close",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

if not TYPE_CHECKING:  # where types are checked a misspelt name must stay an error

    def __getattr__(name: str) -> Any:
        from importlib import import_module  # noqa: PLC0415 - part of what is put off

        place = _PLACE_OF.get(name)
        if place is not None:
            found = globals()[name] = getattr(import_module(place), name)
            return found
        if not name.startswith("_"):
            # `nt_memory.errors` and the like, without an import of their own.
            try:
                return import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
