"""L2 on another server: the HTTP contract of `nt-agentdb-client`, and what of it is where.

`client` speaks it, `shelves` says how observations are spelled as documents and collections,
`progress` keeps how far a store has delivered. `system.delivering` and `system.remote` do the rest.
"""

from nt_memory.tiers.agentdb.client import MAX_K, AgentDBClient
from nt_memory.tiers.agentdb.progress import Progress
from nt_memory.tiers.agentdb.shelves import (
    MARK,
    Document,
    collection_of,
    document_id,
    metadata_of,
    read_mark,
    spell_where,
)

__all__ = [
    "MARK",
    "MAX_K",
    "AgentDBClient",
    "Document",
    "Progress",
    "collection_of",
    "document_id",
    "metadata_of",
    "read_mark",
    "spell_where",
]
