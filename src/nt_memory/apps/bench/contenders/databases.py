"""Embedded databases: they keep vectors on disk under ids, and load or map what a search needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nt_memory.apps.bench.contenders.contender import About, Placed, batches
from nt_memory.apps.bench.figures import K
from nt_memory.apps.bench.loading import module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Zvec(Placed):
    """Alibaba's zvec: HNSW with int8 codes, built by `optimize` after the inserts."""

    about: ClassVar[About] = About(
        "zvec",
        "HNSW m 16, ef_construction 200, INT8, cosine, mmap; optimize() after inserts; ef {ef}",
        modules=("zvec",),
    )

    _collection: Any
    _ef = 64

    def build(self, vectors: Floats) -> None:
        """Insert in batches of at most 1,024, which is its limit, then build the index."""
        zvec = module("zvec")
        index = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.COSINE,
            m=16,
            ef_construction=200,
            quantize_type=zvec.QuantizeType.INT8,
        )
        column = zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, self.dim, index_param=index)
        schema = zvec.CollectionSchema("bench", vectors=column)
        self._collection = zvec.create_and_open(str(self.directory / "zvec"), schema)
        for first, part in batches(vectors, 1_000):
            docs = [zvec.Doc(id=str(first + i), vectors={"v": row}) for i, row in enumerate(part)]
            for status in self._collection.insert(docs):
                if not status.ok():
                    raise RuntimeError(f"insert: {status.message()}")
        self._collection.flush()
        self._collection.optimize(zvec.OptimizeOption(concurrency=self.threads))

    def search(self, query: Floats) -> list[int]:
        """Ids alone."""
        zvec = module("zvec")
        asked = zvec.Query("v", vector=query, param=zvec.HnswQueryParam(ef=self._ef))
        hits = self._collection.query(asked, topk=K, output_fields=[])
        return [int(hit.id) for hit in hits]

    def set_ef(self, ef: int) -> None:
        """`HnswQueryParam.ef`."""
        self._ef = ef

    def save(self) -> None:
        """It is on disk; flushed to be sure."""
        self._collection.flush()

    def open(self) -> None:
        """Mapped."""
        self._collection = module("zvec").open(str(self.directory / "zvec"))

    def close(self) -> None:
        """Nothing to let go of."""


class Lance(Placed):
    """LanceDB: one IVF partition that is an HNSW graph with 8-bit codes, as its documentation advises."""

    about: ClassVar[About] = About(
        "lancedb",
        ("IVF_HNSW_SQ, 1 partition, m 20, ef_construction 300, cosine, its own threads; ef {ef}"),
        modules=("lancedb", "pyarrow"),
    )

    _table: Any
    _ef = 64

    def build(self, vectors: Floats) -> None:
        """Add in batches as Arrow, then create the index."""
        lancedb, pa = module("lancedb"), module("pyarrow")
        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), self.dim))])
        database = lancedb.connect(str(self.directory / "lance"))
        self._table = database.create_table("bench", schema=schema)
        for first, part in batches(vectors, 50_000):
            flat = pa.array(np.ascontiguousarray(part).ravel())
            columns = [
                pa.array(np.arange(first, first + len(part))),
                pa.FixedSizeListArray.from_arrays(flat, self.dim),
            ]
            self._table.add(pa.Table.from_arrays(columns, schema=schema))
        self._table.create_index(
            metric="cosine", index_type="IVF_HNSW_SQ", num_partitions=1, m=20, ef_construction=300
        )

    def search(self, query: Floats) -> list[int]:
        """Ids alone, as Arrow."""
        asked = self._table.search(query).distance_type("cosine").nprobes(1).ef(self._ef)
        hits = asked.select(["id", "_distance"]).limit(K).to_arrow()
        found: list[int] = hits["id"].to_pylist()
        return found

    def set_ef(self, ef: int) -> None:
        """`ef` of a query."""
        self._ef = ef

    def save(self) -> None:
        """It is on disk."""

    def open(self) -> None:
        """Reads what a query needs."""
        self._table = module("lancedb").connect(str(self.directory / "lance")).open_table("bench")

    def close(self) -> None:
        """Nothing to let go of."""


class Chroma(Placed):
    """Chroma's persistent client: its fork of hnswlib on float32, beside SQLite."""

    about: ClassVar[About] = About(
        "chromadb",
        "PersistentClient, hnsw M 16, ef_construction 100 (its defaults), cosine; ef {ef}",
        modules=("chromadb",),
    )

    _collection: Any

    def build(self, vectors: Floats) -> None:
        """Add in batches; the index follows as it goes."""
        hnsw = {
            "space": "cosine",
            "max_neighbors": 16,
            "ef_construction": 100,
            "num_threads": self.threads,
        }
        self._collection = self._client().create_collection(
            "bench", configuration={"hnsw": hnsw}, embedding_function=None
        )
        for first, part in batches(vectors):
            ids = [str(first + i) for i in range(len(part))]
            self._collection.add(ids=ids, embeddings=np.array(part))

    def search(self, query: Floats) -> list[int]:
        """Ids alone."""
        found = self._collection.query(query_embeddings=query[None], n_results=K, include=[])
        return [int(name) for name in found["ids"][0]]

    def set_ef(self, ef: int) -> None:
        """`ef_search` of the collection, which counts once the collection is loaded anew."""
        self._collection.modify(configuration={"hnsw": {"ef_search": ef}})
        # Clients of one path share what is loaded, until the last is forgotten.
        module("chromadb.api.shared_system_client").SharedSystemClient.clear_system_cache()
        self.open()

    def save(self) -> None:
        """It is on disk."""

    def open(self) -> None:
        """The index is loaded by the first query."""
        self._collection = self._client().get_collection("bench", embedding_function=None)

    def _client(self) -> Any:
        chromadb = module("chromadb")
        return chromadb.PersistentClient(
            str(self.directory / "chroma"),
            settings=chromadb.Settings(anonymized_telemetry=False),
        )

    def close(self) -> None:
        """Nothing to let go of."""


class Qdrant(Placed):
    """Qdrant's local mode, the client without a server: a scan in numpy.

    In memory, because on disk it commits each point by itself: 80 points a second where an fsync
    takes 10 ms, so that no table of this size would ever be full.
    """

    about: ClassVar[About] = About(
        "qdrant-client",
        "local mode in memory (on disk it commits every point alone), cosine, an exact scan",
        modules=("qdrant_client",),
        is_kept=False,
    )

    _client: Any

    def build(self, vectors: Floats) -> None:
        """Upsert in batches."""
        models = module("qdrant_client.models")
        self._client = module("qdrant_client").QdrantClient(location=":memory:")
        self._client.create_collection(
            "bench", models.VectorParams(size=self.dim, distance=models.Distance.COSINE)
        )
        for first, part in batches(vectors):
            ids = list(range(first, first + len(part)))
            self._client.upsert("bench", models.Batch(ids=ids, vectors=part.tolist()))

    def search(self, query: Floats) -> list[int]:
        """Ids alone."""
        found = self._client.query_points("bench", query=query, limit=K, with_payload=False)
        return [int(hit.id) for hit in found.points]

    def save(self) -> None:
        """It keeps nothing."""

    def open(self) -> None:
        """There is nothing to open."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to let go of."""


class SqliteVec(Placed):
    """sqlite-vec: a table of vectors in SQLite, scanned.

    By apsw, whose SQLite loads extensions; that of many Pythons is built without.
    """

    about: ClassVar[About] = About(
        "sqlite-vec",
        "vec0 float32, cosine, an exact scan; WAL, synchronous=FULL, a transaction a batch",
        modules=("apsw", "sqlite_vec"),
    )

    _connection: Any

    def build(self, vectors: Floats) -> None:
        """A transaction a batch."""
        self.open()
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        column = f"v float[{self.dim}] distance_metric=cosine"
        self._connection.execute(f"CREATE VIRTUAL TABLE bench USING vec0({column})")
        for first, part in batches(vectors):
            rows = ((first + i + 1, row.tobytes()) for i, row in enumerate(part))
            with self._connection:
                self._connection.executemany("INSERT INTO bench (rowid, v) VALUES (?, ?)", rows)

    def search(self, query: Floats) -> list[int]:
        """Row ids start at 1."""
        found = self._connection.execute(
            "SELECT rowid FROM bench WHERE v MATCH ? AND k = ? ORDER BY distance",
            (query.tobytes(), K),
        )
        return [row - 1 for (row,) in found]

    def save(self) -> None:
        """It is on disk."""

    def open(self) -> None:
        """Reads pages as a query needs them."""
        self._connection = module("apsw").Connection(str(self.directory / "bench.sqlite"))
        self._connection.enable_load_extension(enable=True)
        self._connection.load_extension(module("sqlite_vec").loadable_path())

    def close(self) -> None:
        """Checkpoints the log."""
        self._connection.close()
