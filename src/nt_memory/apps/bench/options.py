"""What a benchmark is asked to do: frozen, and refused when it makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nt_memory.apps.bench.contenders import PEERS
from nt_memory.apps.bench.datasets import NAMES
from nt_memory.apps.bench.machine import cores
from nt_memory.errors import InvalidInputError

MIN_ROWS = 1_000
MIN_QUERIES = 40
MAX_DIM = 16_384
MIN_GIB, MAX_GIB = 1 / 16, 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Options of one run; `nt-memory bench vectors --help` says the same in words.

    Attributes:
        n: Stored vectors, or the sizes to measure, each at least 1,000.
        dim: Dimension of synthetic vectors.
        data: Name of the data set.
        peers: Contenders beside this memory.
        queries: Searches a figure is taken from, at least 40.
        recalls: Where peers can search more or less broadly, they are measured at each of these.
        memory_gib: What this memory may use, its `max_memory_bytes`, from 1/16 to 1,024 GiB.
        budget_s: A contender is ended after so many seconds, for each of its processes.
        limit_s: Timed searches stop after so long, but not before 20.
        seconds: Length of searches under ingest.
        repeats: How often a ratio of rates is taken; the middle one counts.
        threads: For building, where a contender lets itself be told; 0: one a core.
        seed: Of everything that is drawn.
        workdir: Where stores go while they are measured; None: the system's temporary directory.
        cache: Where text embeddings are kept.

    Raises:
        InvalidInputError: a number is out of its range, or a name is not one.
    """

    n: tuple[int, ...] = (100_000,)
    dim: int = 384
    data: str = "clustered"
    peers: tuple[str, ...] = PEERS
    queries: int = 1_000
    recalls: tuple[float, ...] = (0.95, 0.99)
    memory_gib: float = 1.0
    budget_s: float = 1_800.0
    limit_s: float = 60.0
    seconds: float = 10.0
    repeats: int = 3
    threads: int = 0
    seed: int = 7
    workdir: Path | None = None
    cache: Path = Path("~/.cache/nt-memory/bench")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        unknown = [name for name in self.peers if name not in PEERS]
        if unknown:
            raise InvalidInputError(
                f"--peers: no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}"
            )
        if self.data not in NAMES:
            raise InvalidInputError(f"--data must be one of {', '.join(NAMES)}, not {self.data!r}")
        wrong = [
            text
            for is_wrong, text in (
                (not self.n or min(self.n) < MIN_ROWS, f"sizes must be at least {MIN_ROWS:,}"),
                (not 2 <= self.dim <= MAX_DIM, f"--dim must be from 2 to {MAX_DIM:,}"),
                (self.queries < MIN_QUERIES, f"--queries must be at least {MIN_QUERIES}"),
                (
                    not self.recalls or not all(0 < each <= 1 for each in self.recalls),
                    "--recall must be above 0 and at most 1",
                ),
                (
                    not MIN_GIB <= self.memory_gib <= MAX_GIB,
                    f"--memory must be from {MIN_GIB:g} to {MAX_GIB:,}",
                ),
                (not self.budget_s > 0, "--budget must be greater than 0"),
                (not self.seconds >= 0, "--seconds must not be negative"),
                (self.repeats < 1, "--repeats must be at least 1"),
                (self.threads < 0, "--threads must not be negative"),
                (self.seed < 0, "--seed must not be negative"),
                (
                    self.workdir is not None and not self.workdir.is_dir(),
                    "--workdir is no directory",
                ),
            )
            if is_wrong
        ]
        if wrong:
            raise InvalidInputError(wrong[0])

    @property
    def build_threads(self) -> int:
        """Threads to build with."""
        return self.threads or cores()

    @property
    def memory_bytes(self) -> int:
        """What this memory may use."""
        return int(self.memory_gib * (1 << 30))

    @property
    def cache_directory(self) -> Path:
        """Where text embeddings are kept, made absolute."""
        return self.cache.expanduser().absolute()
