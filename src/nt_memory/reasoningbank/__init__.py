"""Trajectories, verdicts, patterns and the advice drawn from them."""

from nt_memory.reasoningbank.advice import Advice, MemoryRef, RecalledMemory, Receipt
from nt_memory.reasoningbank.bank import ReasoningBank
from nt_memory.reasoningbank.calibration import Calibration
from nt_memory.reasoningbank.definition import Definition, Tolerance
from nt_memory.reasoningbank.frame import Frame
from nt_memory.reasoningbank.pattern import Pattern
from nt_memory.reasoningbank.recent import RecentAction
from nt_memory.reasoningbank.regimes import Ranked
from nt_memory.reasoningbank.savings import Savings
from nt_memory.reasoningbank.trajectory import Trajectory
from nt_memory.reasoningbank.uplift import Uplift
from nt_memory.reasoningbank.verdict import Verdict

__all__ = [
    "Advice",
    "Calibration",
    "Definition",
    "Frame",
    "MemoryRef",
    "Pattern",
    "Ranked",
    "ReasoningBank",
    "RecalledMemory",
    "Receipt",
    "RecentAction",
    "Savings",
    "Tolerance",
    "Trajectory",
    "Uplift",
    "Verdict",
]
