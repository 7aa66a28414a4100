"""The public system over journal, replica and tiers."""

from nt_memory.system.memory import MemorySystem
from nt_memory.system.transaction import Transaction
from nt_memory.system.view import MemoryView
from nt_memory.system.watching import JournalEntry, Tail, Watch

__all__ = ["JournalEntry", "MemorySystem", "MemoryView", "Tail", "Transaction", "Watch"]
