"""Who is measured: the memory itself, bare indexes, and embedded databases.

Nothing in the product imports any of the others; each is loaded by name when its turn comes, in a
process of its own, and is passed over with a word when it is not installed.
"""

from __future__ import annotations

from nt_memory.apps.bench.contenders.contender import Contender
from nt_memory.apps.bench.contenders.databases import Chroma, Lance, Qdrant, SqliteVec, Zvec
from nt_memory.apps.bench.contenders.indexes import (
    Faiss,
    FaissAlike,
    Hnswlib,
    Scan,
    ScanAlone,
    Usearch,
)
from nt_memory.apps.bench.contenders.ours import Memory

CONTENDERS: dict[str, type[Contender]] = {
    "nt-memory": Memory,
    "numpy": Scan,
    "numpy-1": ScanAlone,
    "faiss": Faiss,
    "faiss-same": FaissAlike,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "zvec": Zvec,
    "lancedb": Lance,
    "chroma": Chroma,
    "qdrant": Qdrant,
    "sqlite-vec": SqliteVec,
}
PEERS = tuple(name for name in CONTENDERS if name != "nt-memory")

__all__ = ["CONTENDERS", "PEERS", "Contender"]
