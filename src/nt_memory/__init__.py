"""Memory for swarms of trading agents: state, similar situations, reasoning, coordination."""

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
from nt_memory.system.maps import MemoryMap
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
