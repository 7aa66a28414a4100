"""Filters as masks over the rows of a partition, so that what they filter need not be read."""

from nt_memory.system.filtering.sieve import Sieve
from nt_memory.system.filtering.tables import FilterTables

__all__ = ["FilterTables", "Sieve"]
