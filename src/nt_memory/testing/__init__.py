"""Tools for testing programs that use nt-memory; used by no product code."""

from nt_memory.clock import ManualClock

__all__ = ["ManualClock"]
