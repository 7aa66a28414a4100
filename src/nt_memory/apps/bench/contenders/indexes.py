# mypy: disable-error-code="explicit-override"
# typing.override is 3.12
"""Bare indexes in memory, and the linear scan that all of them have to be faster than."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nt_memory.apps.bench.contenders.contender import BATCH, About, Placed, batches
from nt_memory.apps.bench.figures import K
from nt_memory.apps.bench.loading import module
from nt_memory.tiers.vectors.breadth import FIRST_LOOK, NARROW, WIDE
from nt_memory.tiers.vectors.codes import Codes, code_width

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TRAINED_ON = 20_000
ONE_THREAD_VALUES = (
    1 << 17
)  # of a product of a matrix with a vector that OpenBLAS does not split up
M = 16


class Scan(Placed):
    """Every vector, every time: exact, and what a search costs without an index."""

    about: ClassVar[About] = About(
        "numpy",
        "linear scan of float32, BLAS with its own threads",
    )
    is_alone: ClassVar[bool] = False

    _vectors: Floats

    def build(self, vectors: Floats) -> None:
        """Copy them into memory."""
        self._vectors = np.array(vectors)

    def search(self, query: Floats) -> list[int]:
        """All inner products, then the greatest."""
        # BLAS leaves products so small on the thread that asks for them.
        rows = max(1, ONE_THREAD_VALUES // self.dim) if self.is_alone else len(self._vectors)
        scores = np.empty(len(self._vectors), np.float32)
        for first in range(0, len(scores), rows):
            part = self._vectors[first : first + rows]
            np.matmul(part, query, out=scores[first : first + rows])
        top = np.argpartition(scores, -K)[-K:]
        found: list[int] = top[np.argsort(-scores[top])].tolist()
        return found

    def save(self) -> None:
        """A plain array file."""
        np.save(self.directory / "scan.npy", self._vectors)

    def open(self) -> None:
        """Read it whole."""
        self._vectors = np.load(self.directory / "scan.npy")

    def close(self) -> None:
        """Nothing to let go of."""


class ScanAlone(Scan):
    """The same on one thread, as all others search."""

    about: ClassVar[About] = About(
        "numpy",
        "linear scan of float32, on one thread",
    )
    is_alone: ClassVar[bool] = True


class Faiss(Placed):
    """Raw faiss as it comes: what being a memory costs."""

    about: ClassVar[About] = About(
        "faiss-cpu",
        "HNSW16,SQ8, efConstruction 40, ef {ef}",
        modules=("faiss",),
    )
    construction: ClassVar[dict[int, int]] = {0: 40}  # from how many rows on which

    _index: Any

    def build(self, vectors: Floats) -> None:
        """Train the 8-bit codes on a sample spread over all rows, then add in batches."""
        faiss = module("faiss")
        faiss.omp_set_num_threads(self.threads)
        self._index = faiss.index_factory(self.dim, f"HNSW{M},SQ8", faiss.METRIC_INNER_PRODUCT)
        step = max(1, len(vectors) // TRAINED_ON)
        self._index.train(np.ascontiguousarray(vectors[::step]))
        self._add(vectors)
        faiss.omp_set_num_threads(1)

    def _add(self, vectors: Floats) -> None:
        for first, part in batches(vectors, BATCH):
            breadth = max(rows for rows in self.construction if rows <= first)
            self._index.hnsw.efConstruction = self.construction[breadth]
            self._index.add(self._written(part))

    def _written(self, vectors: Floats) -> Floats:
        """Rows as the index takes them."""
        return np.ascontiguousarray(vectors)

    def search(self, query: Floats) -> list[int]:
        """One query on one thread."""
        found: list[int] = self._index.search(query[None], K)[1][0].tolist()
        return found

    def set_ef(self, ef: int) -> None:
        """`efSearch`."""
        self._index.hnsw.efSearch = ef

    def save(self) -> None:
        """Its own file format."""
        module("faiss").write_index(self._index, str(self.directory / "index.faiss"))

    def open(self) -> None:
        """Read whole into memory."""
        faiss = module("faiss")
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(str(self.directory / "index.faiss"))

    def close(self) -> None:
        """Nothing to let go of."""


class FaissAlike(Faiss):
    """Raw faiss built as this memory builds its graphs: the same codes, links and breadths."""

    about: ClassVar[About] = About(
        "faiss-cpu",
        "HNSW16 of our codes, efConstruction 112, from 262,144 rows on 50, full links, ef {ef}",
        modules=("faiss",),
    )
    construction: ClassVar[dict[int, int]] = {0: WIDE, FIRST_LOOK: NARROW}

    _codes: Codes

    def build(self, vectors: Floats) -> None:
        """Choose the codes by a sample spread over all rows, then add in batches."""
        faiss = module("faiss")
        faiss.omp_set_num_threads(self.threads)
        kind = faiss.ScalarQuantizer.QT_8bit_direct
        self._index = faiss.IndexHNSWSQ(code_width(self.dim), kind, M, faiss.METRIC_L2)
        self._index.hnsw.prune_headroom = 0.0
        step = max(1, len(vectors) // TRAINED_ON)
        self._codes = Codes.of(vectors[::step])
        self._add(vectors)
        faiss.omp_set_num_threads(1)

    def search(self, query: Floats) -> list[int]:
        """One query on one thread."""
        return super().search(self._codes.written(query[None])[0])

    def save(self) -> None:
        """Its own file format, and how values become codes."""
        super().save()
        self._codes_file.write_bytes(self._codes.kept)

    def open(self) -> None:
        """Read whole into memory."""
        super().open()
        codes = Codes.from_kept(self._codes_file.read_bytes(), self.dim)
        if codes is None:
            raise ValueError(f"{self._codes_file} holds no codes")
        self._codes = codes

    @property
    def _codes_file(self) -> Path:
        return self.directory / "codes"

    def _written(self, vectors: Floats) -> Floats:
        return self._codes.written(vectors)


class Hnswlib(Placed):
    """The reference HNSW, on float32."""

    about: ClassVar[About] = About(
        "hnswlib",
        "M 16, efConstruction 200 (its default), float32, ef {ef}",
        modules=("hnswlib",),
    )

    _index: Any

    def build(self, vectors: Floats) -> None:
        """Room for all rows is reserved, as its documentation asks."""
        self._index = module("hnswlib").Index(space="ip", dim=self.dim)
        self._index.init_index(max_elements=len(vectors), M=M, ef_construction=200, random_seed=7)
        for first, part in batches(vectors, BATCH):
            ids = np.arange(first, first + len(part))
            self._index.add_items(part, ids, num_threads=self.threads)
        self._index.set_num_threads(1)

    def search(self, query: Floats) -> list[int]:
        """One query on one thread."""
        found: list[int] = self._index.knn_query(query, k=K, num_threads=1)[0][0].tolist()
        return found

    def set_ef(self, ef: int) -> None:
        """`set_ef`."""
        self._index.set_ef(ef)

    def save(self) -> None:
        """Its own file format."""
        self._index.save_index(str(self.directory / "index.hnswlib"))

    def open(self) -> None:
        """Read whole into memory."""
        self._index = module("hnswlib").Index(space="ip", dim=self.dim)
        self._index.load_index(str(self.directory / "index.hnswlib"))
        self._index.set_num_threads(1)

    def close(self) -> None:
        """Nothing to let go of."""


class Usearch(Placed):
    """HNSW of USearch on int8, which is where its speed and size come from."""

    about: ClassVar[About] = About(
        "usearch",
        "connectivity 16, expansion_add 128 (its defaults), int8, cosine, ef {ef}",
        modules=("usearch.index",),
    )

    _index: Any

    def build(self, vectors: Floats) -> None:
        """Row numbers are the keys."""
        self._index = module("usearch.index").Index(
            ndim=self.dim, metric="cos", dtype="i8", connectivity=M, expansion_add=128
        )
        for first, part in batches(vectors, BATCH):
            keys = np.arange(first, first + len(part), dtype=np.uint64)
            self._index.add(keys, np.ascontiguousarray(part), threads=self.threads)

    def search(self, query: Floats) -> list[int]:
        """One query on one thread."""
        found: list[int] = self._index.search(query, K, threads=1).keys.tolist()
        return found

    def set_ef(self, ef: int) -> None:
        """`expansion_search`."""
        self._index.expansion_search = ef

    def save(self) -> None:
        """Its own file format."""
        self._index.save(str(self.directory / "index.usearch"))

    def open(self) -> None:
        """Read whole into memory (it can also map the file)."""
        self._index = module("usearch.index").Index.restore(
            str(self.directory / "index.usearch"), view=False
        )

    def close(self) -> None:
        """Nothing to let go of."""
