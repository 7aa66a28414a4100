"""The graph: faiss HNSW over codes of one byte a value, wrapped so that nothing else needs to know faiss.

`library` loads it, and beside `scanners` and `clustering` nothing else uses it. What was verified against faiss 1.15.1 and is
relied on:

- Calls release the GIL. Searches may run beside each other, but not beside an `add`.
- `add` of fixed batches on one thread, the generator reseeded before each, gives the same bytes
  again, also when the graph was saved and loaded between two batches. Within one `add` faiss
  visits rows in an order of its own, so other batches give another graph.
- The number of OpenMP threads is a setting of the calling thread. A search for one query needs
  none, but a scan of the codes starts them even for one.
- Codes of the kind `QT_8bit_direct` are compared as integers where the processor's units divide their number, and
  else as floats; of whole numbers both give the same sums.
- An index read by a `ZeroCopyIOReader` keeps its codes and links where they are read from. Adding to
  such an index, or to a clone of it, ends the process.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.codes import Codes, code_width
from nt_memory.tiers.vectors.library import faiss
from nt_memory.tiers.vectors.locality import Arrangement, Links, arrange, near_order
from nt_memory.tiers.vectors.pages import Roomy
from nt_memory.tiers.vectors.scanners import CodeScan, use_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LINKS = 16  # HNSW's M
_CONSTRUCTION = 80  # of graphs that must not depend on measurements
_LARGE = 1 << 18
_CONSTRUCTION_LARGE = 112
PARAMETERS = (
    f"HNSW{LINKS},8d;efc={_CONSTRUCTION}/{_CONSTRUCTION_LARGE};full;4sd;faiss={faiss.__version__}"
)
EFFORT = 128
"""Breadth of a search (efSearch) where nothing better is known."""
_MAX_KEPT = 64
_AT_ONCE = 1 << 13
_GATHERED_BYTES = 2 << 20  # what a processor's second cache holds
_ORDER = struct.Struct("<QQ")
_ORDER_TYPE = np.dtype("<i4")
_MOST_ROWS = 1 << 31


class Near(NamedTuple):
    """Rows near each of `m` queries.

    Attributes:
        rows: Roughly nearest first, shape (m, k); -1 where fewer were found.
        distances: Squared distances of their codes, shape (m, k), as lengths of the vectors, so that those of
            different graphs can be compared. They are off by what codes blur, and too short where the codes of
            a graph do not reach.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


class Graph:
    """HNSW over 8-bit codes (see `Codes`), Euclidean distance of unit vectors. Not thread-safe against `add`.

    Args:
        dim: Values in a row.
        seed: The generator is seeded with it and the number of the first row of each batch.
        index: The faiss index to carry on with, empty or not; None begins one.
        codes: How its values became codes, if it has rows.
        arrangement: Which row lies where, if not row after row.
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
        arrangement: Arrangement | None = None,
        payload: NDArray[np.uint8] | None = None,
    ) -> None:
        self.dim = dim
        self.effort = EFFORT
        self.breadth = 0
        self._seed = seed
        self._payload = payload
        if index is None:
            kind = faiss.ScalarQuantizer.QT_8bit_direct
            index = faiss.IndexHNSWSQ(code_width(dim), kind, LINKS, faiss.METRIC_L2)
        # faiss would leave a fifth of the links free when it prunes; full, a search finds more.
        index.hnsw.prune_headroom = 0.0
        self._index = index
        self._codes = codes
        self._arrangement = arrangement
        self._places: NDArray[np.int32] | None = None  # made when they are first asked for
        self._blocks = (Roomy(), Roomy())
        # Making them takes as long as comparing 30 rows; searches only read them.
        self._parameters: dict[int, Any] = {}

    @property
    def rows(self) -> int:
        """Rows [0, rows) are in the graph."""
        return int(self._index.ntotal)

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes of codes, links, levels, offsets and the order; room to grow is not counted."""
        order = 0 if self._arrangement is None else self._arrangement.rows.nbytes
        order += 0 if self._places is None else self._places.nbytes
        if self._payload is not None:
            return order
        links = int(self._index.hnsw.neighbors.size()) * 4
        return self.rows * (code_width(self.dim) + 4 + 8) + links + order

    @property
    def arranged(self) -> int:
        """How many rows it had when they were arranged, so that a search finds them close together; 0: never."""
        return 0 if self._arrangement is None else self._arrangement.arranged

    def add(self, vectors: NDArray[np.float32], *, threads: int = 1) -> None:
        """Append rows, unit vectors, shape (n, dim). The first batch also says how values become codes.

        Cost: 0.1 to 0.3 ms a row at 384 values, growing with the logarithm of the rows, and about
        1 ns for every row already there.
        """
        use_threads(threads)
        if self._codes is None:
            self._codes = Codes.of(vectors)
        first = self.rows
        self._index.hnsw.efConstruction = self.breadth or construction(first)
        self._index.hnsw.rng = faiss.RandomGenerator((self._seed + first) % (2**31 - 1))
        self._index.add(self._codes.written(vectors))
        if self._arrangement is not None:
            self._arrangement, self._places = self._arrangement.grown(self.rows), None
        self._ask_for_pages()

    def search(self, queries: NDArray[np.float32], k: int, *, effort: int) -> Near:
        """Rows near each query.

        Args:
            queries: Shape (m, dim).
            k: Wanted rows.
            effort: Breadth of the search (efSearch), at least `k`.
        """
        use_threads(1)
        breadth = max(effort, k)
        parameters = self._parameters.get(breadth)
        if parameters is None:
            parameters = faiss.SearchParametersHNSW(efSearch=breadth)
            if len(self._parameters) < _MAX_KEPT:
                self._parameters[breadth] = parameters
        return self._asked(self._index, queries, k, parameters)

    def scan(self, queries: NDArray[np.float32], k: int, *, threads: int = 1) -> Near:
        """Like `search`, but compares the 8-bit codes of every row.

        Cost: 15 ns a row of 384 values that lie one after the other; several queries are divided among `threads`.
        """
        use_threads(threads)
        return self._asked(self._index.storage, queries, k, None)

    def nearest(
        self, query: NDArray[np.float32], k: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Up to `k` of some rows, those whose 8-bit codes are nearest to the query, nearest first.

        Args:
            query: Shape (dim,).
            k: Wanted rows.
            rows: Which to compare, each once.

        Returns:
            The rows, and the squared distances of their codes from the query's, which are whole numbers.

        Cost: 0.05 to 0.15 us a row of 384 values, by how near they lie in memory. One thread.
        """
        if self._codes is None or not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        codes, nodes = _codes(self._index), self._nodes(rows)
        step = max(1, _GATHERED_BYTES // codes.shape[1])
        scan = CodeScan(self._codes.written(query[np.newaxis])[0], k)
        for number, first in enumerate(range(0, len(nodes), step)):
            scan.take(number, codes.take(nodes[first : first + step], axis=0))
        numbers, places, distances = scan.found()
        return rows[numbers * step + places], distances

    def _nodes(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.int32]:
        """Where rows lie."""
        if self._arrangement is None:
            return rows
        places = self._places
        if places is None:
            places = self._places = self._arrangement.places()
        return places[rows]

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
        index, codes = faiss.clone_index(self._index), self._codes
        return self._with(Graph(self.dim, self._seed, index=index, codes=codes), self._arrangement)

    def arrange(self) -> Graph:
        """A copy in memory whose rows lie as a search meets them; it can be added to. Also of a mapped graph.

        Searches of it find the same, but for ties, in 0.5 to 0.8 of the time. The same graph gives the same copy.

        Cost: 2 to 3 us a row, and `held_bytes` of memory.
        """
        links, codes = _links(self._index), _codes(self._index)
        order = near_order(links)
        copy = Graph(self.dim, self._seed, codes=self._codes)
        index, hnsw = copy._index, copy._index.hnsw
        hnsw.levels.resize(len(links.levels))
        hnsw.offsets.resize(len(links.starts))
        hnsw.neighbors.resize(len(links.targets))
        faiss.downcast_index(index.storage).codes.resize(codes.size)
        index.ntotal = index.storage.ntotal = len(order)
        copy._ask_for_pages()
        hnsw.entry_point = arrange(links, order, _links(index))
        hnsw.max_level = self._index.hnsw.max_level
        into = _codes(index)
        for first in range(0, len(order), _AT_ONCE):
            into[first : first + _AT_ONCE] = codes[order[first : first + _AT_ONCE]]
        before = self._arrangement or Arrangement.of(np.arange(len(order), dtype=np.int32), 0)
        return self._with(copy, before.arranged_as(order))

    def _with(self, copy: Graph, arrangement: Arrangement | None) -> Graph:
        copy.effort = self.effort
        copy.breadth = self.breadth
        copy._arrangement = arrangement
        return copy

    def _asked(self, index: Any, queries: NDArray[np.float32], k: int, parameters: Any) -> Near:
        # Without rows there is nothing to find, whatever is asked.
        codes = self._codes or Codes.of(queries)
        written = codes.written(queries)
        count = len(written)
        found = np.empty((count, k), np.int64)
        distances = np.empty((count, k), np.float32)
        asked, near, nodes = map(faiss.swig_ptr, (written, distances, found))
        index.search_c(count, asked, k, near, nodes, parameters)
        distances /= codes.scale * codes.scale
        if self._arrangement is not None:
            found = self._arrangement.rows[found].astype(np.int64)
        return Near(found, distances)

    def _ask_for_pages(self) -> None:
        codes = faiss.downcast_index(self._index.storage).codes
        links = self._index.hnsw.neighbors
        for block, vector, item in zip(self._blocks, (codes, links), (1, 4), strict=True):
            block.seen(int(vector.data()), int(vector.size()) * item)

    def dump(self, write: Callable[[bytes], None]) -> None:
        """Hand the graph to `write`, in pieces. What `write` raises comes through."""

        def forward(chunk: bytes) -> None:
            write(bytes(chunk))

        forward((self._codes or Codes.unknown(self.dim)).kept)
        forward(_kept(self._arrangement))
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(forward, 1 << 20))

    @classmethod
    def load(cls, file: BinaryIO, dim: int, seed: int) -> Graph | None:
        """The graph in `file`, or None if there is none of this kind that can be read."""
        codes = Codes.from_kept(file.read(Codes.kept_bytes(dim)), dim)
        start = file.read(_ORDER.size)
        if len(start) < _ORDER.size:
            return None
        arranged, count = _ORDER.unpack(start)
        if count > _MOST_ROWS:
            return None
        order = file.read(count * _ORDER_TYPE.itemsize)
        reader = faiss.PyCallbackIOReader(file.read, 1 << 20)
        return cls._read(reader, (codes, arranged, order), dim, seed, None)

    @classmethod
    def map(cls, payload: NDArray[np.uint8], dim: int, seed: int) -> Graph | None:
        """The graph in `payload`, which is searched where it lies; None as for `load`.

        The order of its rows is copied, 4 bytes a row, and nothing else: of a mapped file only the pages that searches
        touch are read.
        """
        start = Codes.kept_bytes(dim)
        codes = Codes.from_kept(payload[:start].tobytes(), dim)
        stop = start + _ORDER.size
        if len(payload) < stop:
            return None
        arranged, count = _ORDER.unpack(payload[start:stop].tobytes())
        start, stop = stop, stop + count * _ORDER_TYPE.itemsize
        order, rest = payload[start:stop].tobytes(), payload[stop:]
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(rest), rest.nbytes)
        return cls._read(reader, (codes, arranged, order), dim, seed, payload)

    @classmethod
    def _read(
        cls,
        reader: Any,
        before: tuple[Codes | None, int, bytes],
        dim: int,
        seed: int,
        payload: NDArray[np.uint8] | None,
    ) -> Graph | None:
        codes, arranged, order = before
        try:
            index = faiss.read_index(reader)
        except RuntimeError:
            return None
        if not _is_ours(index, dim) or (codes is None and index.ntotal):
            return None
        arrangement = None
        if order:
            rows = np.frombuffer(order, _ORDER_TYPE).astype(np.int32)
            if len(rows) != index.ntotal:
                return None
            arrangement = Arrangement.of(rows, arranged)
        return cls(dim, seed, index=index, codes=codes, arrangement=arrangement, payload=payload)


def construction(rows: int) -> int:
    """Breadth with which rows are added (efConstruction) to a graph that has so many.

    The denser rows lie, the more easily one is put where it is not found again. At 300,000 x 384, 80
    takes 1.6 times as long as faiss's 40, and 2 instead of 46 of a thousand neighbours are missed at
    efSearch 64. At a million, in clusters of a thousand, 112 takes 1.3 times as long as 80, and 27
    instead of 68 of a thousand are missed at efSearch 128.
    """
    return _CONSTRUCTION if rows < _LARGE else _CONSTRUCTION_LARGE


def _is_ours(index: Any, dim: int) -> bool:
    if not isinstance(index, faiss.IndexHNSWSQ) or index.d != code_width(dim):
        return False
    kind = faiss.downcast_index(index.storage).sq.qtype
    return bool(kind == faiss.ScalarQuantizer.QT_8bit_direct)


def _kept(arrangement: Arrangement | None) -> bytes:
    if arrangement is None:
        return _ORDER.pack(0, 0)
    rows = arrangement.rows[:-1].astype(_ORDER_TYPE)
    return _ORDER.pack(arrangement.arranged, len(rows)) + rows.tobytes()


def _links(index: Any) -> Links:
    hnsw = index.hnsw
    levels, starts, targets = map(_viewed, (hnsw.levels, hnsw.offsets, hnsw.neighbors))
    return Links(levels, starts, targets, hnsw.nb_neighbors(0), hnsw.entry_point)


def _codes(index: Any) -> NDArray[np.uint8]:
    codes: NDArray[np.uint8] = _viewed(faiss.downcast_index(index.storage).codes)
    return codes.reshape(-1, index.d)


def _viewed(vector: Any) -> Any:
    """What lies in a vector of C++, where it lies; it must not be resized meanwhile."""
    return faiss.rev_swig_ptr(vector.data(), vector.size())
