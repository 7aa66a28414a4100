"""L2: vectors, searched exactly or through a graph, as of any time and revision."""

from nt_memory.tiers.vectors.clustering import kmeans
from nt_memory.tiers.vectors.counters import VectorStats
from nt_memory.tiers.vectors.files import VectorFiles
from nt_memory.tiers.vectors.growth import Tuning
from nt_memory.tiers.vectors.partition import Partition
from nt_memory.tiers.vectors.ranking import Candidates
from nt_memory.tiers.vectors.saved import partition_of
from nt_memory.tiers.vectors.sizing import graph_bytes, most_rows
from nt_memory.tiers.vectors.snapshots import is_snapshot_whole
from nt_memory.tiers.vectors.steps import Step
from nt_memory.tiers.vectors.tier import VectorTier
from nt_memory.tiers.vectors.visibility import NEVER

__all__ = [
    "NEVER",
    "Candidates",
    "Partition",
    "Step",
    "Tuning",
    "VectorFiles",
    "VectorStats",
    "VectorTier",
    "graph_bytes",
    "is_snapshot_whole",
    "kmeans",
    "most_rows",
    "partition_of",
]
