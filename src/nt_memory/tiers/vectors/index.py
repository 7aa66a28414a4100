"""The graph: faiss HNSW over codes of one byte a value, wrapped so that nothing else needs to know faiss.

The only module that imports faiss. What was verified against faiss 1.15.1 and is relied on:

- Calls release the GIL. Searches may run beside each other, but not beside an `add`.
- `add` of fixed batches on one thread, the generator reseeded before each, gives the same bytes
  again, also when the graph was saved and loaded between two batches. Within one `add` faiss
  visits rows in an order of its own, so other batches give another graph.
- The number of OpenMP threads is a setting of the calling thread. A search for one query needs
  none, but a scan of the codes starts them even for one.
- A selector narrows what is returned, not what is visited; it must outlive the search.
- Codes of the kind `QT_8bit_direct` are the whole parts of what is added or asked for, and compared as
  integers where their number is a multiple of 16.
- An index read by a `ZeroCopyIOReader` keeps its codes and links where they are read from. Adding to
  such an index, or to a clone of it, ends the process.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import faiss
import numpy as np

from nt_memory.tiers.vectors.codes import Codes, code_width
from nt_memory.tiers.vectors.pages import Roomy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_lib = cast("Any", faiss)
LINKS = 16  # HNSW's M
_CONSTRUCTION = 80  # of graphs that must not depend on measurements
_LARGE = 1 << 18
_CONSTRUCTION_LARGE = 112
PARAMETERS = (
    f"HNSW{LINKS},8d;efc={_CONSTRUCTION}/{_CONSTRUCTION_LARGE};full;4sd;faiss={_lib.__version__}"
)
EFFORT = 128
"""Breadth of a search (efSearch) where nothing better is known."""
_MAX_KEPT = 64
_thread = threading.local()


class Graph:
    """HNSW over 8-bit codes (see `Codes`), Euclidean distance of unit vectors. Not thread-safe against `add`.

    Args:
        dim: Values in a row.
        seed: The generator is seeded with it and the number of the first row of each batch.
        index: The faiss index to carry on with, empty or not; None begins one.
        codes: How its values became codes, if it has rows.
        payload: The bytes that the index is a view of, if it is one; such a graph takes no rows.

    Attributes:
        dim: Values in a row.
        effort: Breadth a search needs to find what it should; see `tuning`.
        breadth: Breadth with which rows are added (efConstruction); 0: by how many there are, see
            `construction`.

    Source: Malkov & Yashunin 2018, as implemented by faiss (M = 16).
    """

    def __init__(
        self,
        dim: int,
        seed: int,
        *,
        index: Any = None,
        codes: Codes | None = None,
        payload: NDArray[np.uint8] | None = None,
    ) -> None:
        self.dim = dim
        self.effort = EFFORT
        self.breadth = 0
        self._seed = seed
        self._payload = payload
        if index is None:
            kind = _lib.ScalarQuantizer.QT_8bit_direct
            index = _lib.IndexHNSWSQ(code_width(dim), kind, LINKS, _lib.METRIC_L2)
        # faiss would leave a fifth of the links free when it prunes; full, a search finds more.
        index.hnsw.prune_headroom = 0.0
        self._index = index
        self._codes = codes
        self._blocks = (Roomy(), Roomy())
        # Making them takes as long as comparing 30 rows; searches only read them.
        self._parameters: dict[int, Any] = {}

    @property
    def rows(self) -> int:
        """Rows [0, rows) are in the graph."""
        return int(self._index.ntotal)

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes of codes, links, levels and offsets; room to grow is not counted."""
        if self._payload is not None:
            return 0
        links = int(self._index.hnsw.neighbors.size()) * 4
        return self.rows * (code_width(self.dim) + 4 + 8) + links

    def add(self, vectors: NDArray[np.float32], *, threads: int = 1) -> None:
        """Append rows, unit vectors, shape (n, dim). The first batch also says how values become codes.

        Cost: 0.1 to 0.3 ms a row at 384 values, growing with the logarithm of the rows, and about
        1 ns for every row already there.
        """
        _use_threads(threads)
        if self._codes is None:
            self._codes = Codes.of(vectors)
        first = self.rows
        self._index.hnsw.efConstruction = self.breadth or construction(first)
        self._index.hnsw.rng = _lib.RandomGenerator((self._seed + first) % (2**31 - 1))
        self._index.add(self._codes.written(vectors))
        self._ask_for_pages()

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        effort: int,
        mask: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Rows near each query, roughly best first: shape (m, k), -1 where fewer were found.

        Args:
            queries: Shape (m, dim).
            k: Wanted rows.
            effort: Breadth of the search (efSearch), at least `k`.
            mask: Rows that may be returned; rows past its end may not. None allows all.
        """
        _use_threads(1)
        breadth = max(effort, k)
        if mask is not None:
            parameters = _lib.SearchParametersHNSW(sel=_selector(mask), efSearch=breadth)
        else:
            parameters = self._parameters.get(breadth)
            if parameters is None:
                parameters = _lib.SearchParametersHNSW(efSearch=breadth)
                if len(self._parameters) < _MAX_KEPT:
                    self._parameters[breadth] = parameters
        found = self._index.search(self._written(queries), k, params=parameters)[1]
        return cast("NDArray[np.int64]", found)

    def scan(
        self,
        queries: NDArray[np.float32],
        k: int,
        mask: NDArray[np.bool_] | None = None,
        *,
        threads: int = 1,
    ) -> NDArray[np.int64]:
        """Like `search`, but compares the 8-bit codes of every row that `mask` lets pass.

        Cost: linear in the rows that pass, and 1 to 2 ns for each that does not; several queries are
        divided among `threads`.
        """
        _use_threads(threads)
        selector = None if mask is None else _selector(mask)
        parameters = _lib.SearchParameters(sel=selector)
        found = self._index.storage.search(self._written(queries), k, params=parameters)[1]
        return cast("NDArray[np.int64]", found)

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the file that it is served from; 0 where it is held in memory."""
        return 0 if self._payload is None else self._payload.nbytes

    def clone(self) -> Graph:
        """A copy that can be added to while this one is searched. Not of a mapped graph.

        Cost: copies `held_bytes`, about 3 GB/s.
        """
        if self._payload is not None:
            raise ValueError("a mapped graph is loaded, not cloned, to be added to")
        copy = Graph(self.dim, self._seed, index=_lib.clone_index(self._index), codes=self._codes)
        copy.effort = self.effort
        copy.breadth = self.breadth
        return copy

    def _written(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        # Without rows there is nothing to find, whatever is asked.
        codes = self._codes or Codes.of(queries)
        return codes.written(queries)

    def _ask_for_pages(self) -> None:
        codes = _lib.downcast_index(self._index.storage).codes
        links = self._index.hnsw.neighbors
        for block, vector, item in zip(self._blocks, (codes, links), (1, 4), strict=True):
            block.seen(int(vector.data()), int(vector.size()) * item)

    def dump(self, write: Callable[[bytes], None]) -> None:
        """Hand the graph to `write`, in pieces. What `write` raises comes through."""

        def forward(chunk: bytes) -> None:
            write(bytes(chunk))

        forward((self._codes or Codes.unknown(self.dim)).kept)
        _lib.write_index(self._index, _lib.PyCallbackIOWriter(forward, 1 << 20))

    @classmethod
    def load(cls, file: BinaryIO, dim: int, seed: int) -> Graph | None:
        """The graph in `file`, or None if there is none of this kind that can be read."""
        kept = file.read(Codes.kept_bytes(dim))
        return cls._read(_lib.PyCallbackIOReader(file.read, 1 << 20), kept, dim, seed, None)

    @classmethod
    def map(cls, payload: NDArray[np.uint8], dim: int, seed: int) -> Graph | None:
        """The graph in `payload`, which is searched where it lies; None as for `load`.

        Nothing is copied: of a mapped file only the pages that searches touch are read.
        """
        size = Codes.kept_bytes(dim)
        kept, rest = payload[:size].tobytes(), payload[size:]
        reader = _lib.ZeroCopyIOReader(_lib.swig_ptr(rest), rest.nbytes)
        return cls._read(reader, kept, dim, seed, payload)

    @classmethod
    def _read(
        cls, reader: Any, kept: bytes, dim: int, seed: int, payload: NDArray[np.uint8] | None
    ) -> Graph | None:
        codes = Codes.from_kept(kept, dim)
        try:
            index = _lib.read_index(reader)
        except RuntimeError:
            return None
        if not _is_ours(index, dim) or (codes is None and index.ntotal):
            return None
        return cls(dim, seed, index=index, codes=codes, payload=payload)


class HalfScan:
    """One query, compared with float16 rows of any number of arrays; the best of all are kept. One thread.

    A bound for all arrays is found sooner than one for each, and less is kept on the way: at 20 x 50,000 rows
    of 16 values the best 300 of all take 1.65 ms, where the best 43 of each took 1.9.

    Args:
        query: Shape (dim,).
        k: How many rows to keep; the best ones.

    Relies on, of faiss 1.15: `scan_codes` compares a row's score with the worst of a heap that the caller
        gives it, replaces it by a better one, releases the GIL, and numbers rows `list << 32 | place`.
    """

    def __init__(self, query: NDArray[np.float32], k: int) -> None:
        self._k = k
        width = half_width(len(query))
        self._query = np.zeros(width, np.float32)  # the scanner points to it
        self._query[: len(query)] = query
        self._scores = np.full(k, -np.inf, np.float32)
        self._rows = np.full(k, -1, np.int64)
        self._scanner = _scanner(width)
        self._scanner.set_query(_lib.swig_ptr(self._query))

    def take(self, number: int, rows: NDArray[np.float16]) -> None:
        """Compare with rows, shape (n, `half_width(dim)`), contiguous; they go by `number` in `found`.

        Scores are of rows as they are stored, and off by no more than a sum of float32 products.
        """
        if not len(rows):
            return
        self._scanner.set_list(number, 0.0)
        codes = _lib.swig_ptr(rows.view(np.uint8))
        scores, places = _lib.swig_ptr(self._scores), _lib.swig_ptr(self._rows)
        self._scanner.scan_codes(len(rows), codes, None, scores, places, self._k)

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], float]:
        """Numbers of arrays, places in them and scores of what was kept; and what all others score at most."""
        is_full = bool((self._rows >= 0).all())
        some = slice(None) if is_full else self._rows >= 0
        rows, scores = self._rows[some], self._scores[some]
        least = float(scores.min()) if is_full else -np.inf
        return rows >> 32, rows & 0xFFFFFFFF, scores, least


def half_width(dim: int) -> int:
    """Values in a row for `HalfScan`: up to a multiple of 8, which faiss compares four times as fast."""
    return -(-dim // 8) * 8


def _scanner(width: int) -> Any:
    # One a thread and width, for good: faiss hands it over without a way to give it back.
    kept = cast("dict[int, tuple[Any, Any]]", _thread.__dict__.setdefault("scanners", {}))
    if width not in kept:
        quantizer = _lib.ScalarQuantizer(width, _lib.ScalarQuantizer.QT_fp16)
        numbers_rows_itself, by_residual = True, False
        scanner = quantizer.select_InvertedListScanner(
            _lib.METRIC_INNER_PRODUCT, None, numbers_rows_itself, None, by_residual
        )
        kept[width] = (scanner, quantizer)
    return kept[width][0]


def construction(rows: int) -> int:
    """Breadth with which rows are added (efConstruction) to a graph that has so many.

    The denser rows lie, the more easily one is put where it is not found again. At 300,000 x 384, 80
    takes 1.6 times as long as faiss's 40, and 2 instead of 46 of a thousand neighbours are missed at
    efSearch 64. At a million, in clusters of a thousand, 112 takes 1.3 times as long as 80, and 27
    instead of 68 of a thousand are missed at efSearch 128.
    """
    return _CONSTRUCTION if rows < _LARGE else _CONSTRUCTION_LARGE


def widen(half: NDArray[np.float16]) -> NDArray[np.float32]:
    """Float32 copy of contiguous float16 rows (n, dim). Exact; twice as fast as `astype`."""
    rows, dim = half.shape
    wide = np.empty((rows, dim), np.float32)
    if rows:
        quantizer = _lib.ScalarQuantizer(dim, _lib.ScalarQuantizer.QT_fp16)
        codes = np.ascontiguousarray(half).view(np.uint8)
        _use_threads(1)
        quantizer.decode_c(_lib.swig_ptr(codes), _lib.swig_ptr(wide), rows)
    return wide


def kmeans(
    vectors: NDArray[np.float32], k: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cluster rows by Euclidean distance, the same way every time.

    Args:
        vectors: Shape (n, dim), n >= 1.
        k: Wanted clusters; no more than n are made.
        seed: Of the initial centroids.

    Returns:
        Centroids, shape (min(k, n), dim), and each row's cluster, shape (n,).

    Cost: 20 rounds over the rows on one thread.
    Source: Lloyd 1982, as implemented by `faiss.Kmeans`; all rows are used, none sampled.
    """
    _use_threads(1)
    rows = np.ascontiguousarray(vectors, np.float32)
    k = min(k, len(rows))
    clustering = _lib.Kmeans(
        rows.shape[1],
        k,
        niter=20,
        seed=seed % (2**31 - 1),
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(rows)),
    )
    clustering.train(rows)
    _, nearest = clustering.index.search(rows, 1)
    return np.array(clustering.centroids, np.float32), nearest[:, 0].astype(np.int64)


def _is_ours(index: Any, dim: int) -> bool:
    if not isinstance(index, _lib.IndexHNSWSQ) or index.d != code_width(dim):
        return False
    kind = _lib.downcast_index(index.storage).sq.qtype
    return bool(kind == _lib.ScalarQuantizer.QT_8bit_direct)


def _selector(mask: NDArray[np.bool_]) -> Any:
    # The selector keeps the packed array alive, and the search parameters keep the selector alive.
    return _lib.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def _use_threads(count: int) -> None:
    if getattr(_thread, "count", None) != count:
        _lib.omp_set_num_threads(count)
        _thread.count = count
