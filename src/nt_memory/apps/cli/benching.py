"""`nt-memory bench`: measure search and coordination here, alone and beside others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import Exit
from nt_memory.apps.cli.options import AsJson
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.report import Findings

OUT = Path("bench-report")

_Dim = Annotated[int, typer.Option(help="Dimension of synthetic vectors.")]
_Data = Annotated[
    str, typer.Option(help="clustered, market, text, gaussian or subspace.", metavar="NAME")
]
_Queries = Annotated[int, typer.Option(help="Searches that a figure is taken from.")]
_Budget = Annotated[
    float, typer.Option(metavar="SECONDS", help="When a process that is measured is given up.")
]
_Threads = Annotated[
    int, typer.Option(help="To build with, where a peer lets itself be told; 0: one a core.")
]
_Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
_Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")]
_Name = Annotated[str, typer.Option(help="Of the result files; made up when empty.")]
_Workdir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where stores go meanwhile; put it on the disk to measure."),
]
_Sizes = Annotated[str, typer.Option("--n", metavar="N,N,...", help="How many vectors, each.")]
_N = Annotated[int, typer.Option(help="How many vectors.")]


def vectors(
    *,
    n: _N = 100_000,
    dim: _Dim = 384,
    data: _Data = "clustered",
    peers: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Beside nt-memory: numpy, numpy-1, faiss, faiss-same, hnswlib, usearch, zvec, lancedb, chroma, qdrant, "
            "sqlite-vec; or none.  [default: all]",
        ),
    ] = "",
    recall: Annotated[
        str, typer.Option(metavar="R,R,...", help="Peers are set to reach each of these.")
    ] = "0.95,0.99",
    seconds: Annotated[float, typer.Option(help="Of searching while observations come in.")] = 10.0,
    queries: _Queries = 1_000,
    budget: _Budget = 1_800.0,
    threads: _Threads = 0,
    seed: _Seed = 7,
    out: _Out = OUT,
    name: _Name = "",
    workdir: _Workdir = None,
    json: AsJson = False,
) -> None:
    """Compare with other indexes and databases: rate, memory, latency, recall, reopening.

    Peers come with `pip install 'nt-memory[bench-vectors]'`; one that is missing, fails, or takes too long is a
    line that says so.
    """
    from nt_memory.apps.bench.vectors import run_vectors  # noqa: PLC0415 - slow, only needed here

    chosen: dict[str, Any] = {} if not peers else {"peers": _names(peers)}
    options = _options(
        n=(n,),
        dim=dim,
        data=data,
        recalls=_numbers(recall, float, "--recall"),
        seconds=seconds,
        queries=queries,
        budget_s=budget,
        threads=threads,
        seed=seed,
        workdir=workdir,
        **chosen,
    )
    _show(run_vectors(options, _told, name=name), out, as_json=json)


def curve(
    *,
    n: _Sizes = "10000,100000",
    agents: Annotated[
        str,
        typer.Option(
            metavar="N,N,...", help="Share the first size out among so many agents, each; or none."
        ),
    ] = "1,10,100,1000",
    dim: _Dim = 384,
    data: _Data = "clustered",
    memory: Annotated[
        float, typer.Option(metavar="GIB", help="The memory's max_memory_bytes, at every size.")
    ] = 1.0,
    queries: _Queries = 1_000,
    budget: _Budget = 3_600.0,
    seed: _Seed = 7,
    out: _Out = OUT,
    name: _Name = "",
    workdir: _Workdir = None,
    json: AsJson = False,
) -> None:
    """See how latency, memory, disk and opening grow with observations and with agents.

    A linear scan is measured beside it; exponents are fitted to all sizes.
    """
    from nt_memory.apps.bench.curve import run_curve  # noqa: PLC0415 - slow, only needed here

    options = _options(
        n=_numbers(n, int, "--n"),
        dim=dim,
        data=data,
        memory_gib=memory,
        queries=queries,
        budget_s=budget,
        seed=seed,
        workdir=workdir,
    )
    among = () if agents == "none" else _numbers(agents, int, "--agents")
    if any(not 0 < each <= min(options.n) for each in among):
        raise InvalidInputError("--agents: each from 1 to the first size")
    _show(run_curve(options, _told, agents=among, name=name), out, as_json=json)


def filters(
    *,
    n: _Sizes = "100000",
    dim: _Dim = 384,
    data: _Data = "clustered",
    queries: _Queries = 200,
    budget: _Budget = 3_600.0,
    seed: _Seed = 7,
    out: _Out = OUT,
    name: _Name = "",
    workdir: _Workdir = None,
    json: AsJson = False,
) -> None:
    """Search through filters of every kind and width; exact searches beside them."""
    from nt_memory.apps.bench.filtering import run_filters  # noqa: PLC0415 - slow, only needed here

    options = _options(
        n=_numbers(n, int, "--n"),
        dim=dim,
        data=data,
        queries=queries,
        budget_s=budget,
        limit_s=20.0,
        seed=seed,
        workdir=workdir,
    )
    _show(run_filters(options, _told, name=name), out, as_json=json)


def ingest(
    *,
    n: _N = 100_000,
    dim: _Dim = 384,
    data: _Data = "clustered",
    seconds: Annotated[float, typer.Option(help="Of searching while observations come in.")] = 10.0,
    repeats: Annotated[int, typer.Option(help="Of filling; the middle one counts.")] = 3,
    queries: _Queries = 1_000,
    budget: _Budget = 1_800.0,
    threads: _Threads = 0,
    seed: _Seed = 7,
    out: _Out = OUT,
    name: _Name = "",
    workdir: _Workdir = None,
    json: AsJson = False,
) -> None:
    """Fill a memory beside raw faiss, and search it while observations come in."""
    from nt_memory.apps.bench.ingesting import run_ingest  # noqa: PLC0415 - slow, only needed here

    options = _options(
        n=(n,),
        dim=dim,
        data=data,
        seconds=seconds,
        repeats=repeats,
        queries=queries,
        budget_s=budget,
        threads=threads,
        seed=seed,
        workdir=workdir,
    )
    _show(run_ingest(options, _told, name=name), out, as_json=json)


def memory(
    *,
    n: _N = 100_000,
    dim: _Dim = 384,
    data: _Data = "clustered",
    budget: _Budget = 3_600.0,
    seed: _Seed = 7,
    out: _Out = OUT,
    name: _Name = "",
    workdir: _Workdir = None,
    json: AsJson = False,
) -> None:
    """See what a full memory takes, hot records and bookkeeping included."""
    from nt_memory.apps.bench.remembering import run_memory  # noqa: PLC0415 - slow, only needed here

    options = _options(n=(n,), dim=dim, data=data, budget_s=budget, seed=seed, workdir=workdir)
    _show(run_memory(options, _told, name=name), out, as_json=json)


def coordination(
    *,
    peers: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Beside nt-memory: asyncio, queue, anyio, aiologic, blinker, redis, nats; or none.  "
            "[default: all]",
        ),
    ] = "",
    receivers: Annotated[
        str, typer.Option(metavar="N,N,...", help="How many get each message, each.")
    ] = "1,10,1000",
    contenders: Annotated[int, typer.Option(help="How many want the lock at once.")] = 50,
    voters: Annotated[
        str, typer.Option(metavar="N,N,...", help="How many vote on a proposal, each.")
    ] = "5,500",
    seconds: Annotated[float, typer.Option(help="Of each figure.")] = 1.0,
    repeats: Annotated[
        int, typer.Option(help="Rounds in which everybody is measured; the middle figure counts.")
    ] = 3,
    budget: _Budget = 120.0,
    out: _Out = OUT,
    name: _Name = "",
    workdir: _Workdir = None,
    json: AsJson = False,
) -> None:
    """Messages, locks and votes beside what a program without a memory would use.

    Peers come with `pip install 'nt-memory[bench-coordination]'`, and with the servers redis-server and
    nats-server; one that is missing is a line that says so.
    """
    from nt_memory.apps.bench.coordination import (  # noqa: PLC0415 - slow, only needed here
        CoordinationOptions,
        run_coordination,
    )

    chosen: dict[str, Any] = {} if not peers else {"peers": _names(peers)}
    options = CoordinationOptions(
        receivers=_numbers(receivers, int, "--receivers"),
        contenders=contenders,
        voters=_numbers(voters, int, "--voters"),
        seconds=seconds,
        repeats=repeats,
        budget_s=budget,
        workdir=workdir,
        **chosen,
    )
    _show(run_coordination(options, _told, name=name), out, as_json=json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    bench = typer.Typer(
        name="bench",
        help="Measure search and coordination here, alone and beside others.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    family = Family(bench, "Begin", group="bench")
    family.add(vectors, "bench vectors --n 1000000 --dim 384", "bench vectors --peers numpy,faiss")
    family.add(
        curve, "bench curve --n 10000,100000,1000000", "bench curve --n 10000,3000000 --memory 3"
    )
    family.add(filters, "bench filters --n 1000000")
    family.add(ingest, "bench ingest --n 200000 --repeats 5")
    family.add(memory, "bench memory --n 1000000 --json | jq .bars")
    family.add(coordination, "bench coordination --seconds 2 --repeats 5")
    app.add_typer(bench, rich_help_panel="Begin")


def _options(**given: Any) -> BenchOptions:
    from nt_memory.apps.bench.options import BenchOptions  # noqa: PLC0415 - slow, only needed here

    return BenchOptions(**given)


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them; "none" names nobody."""
    return () if text == "none" else tuple(part.strip() for part in text.split(","))


def _numbers(text: str, kind: Callable[[str], Any], option: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InvalidInputError(f"{option}: {text!r} is not numbers with commas between") from None


def _told(line: str) -> None:
    printing.note(line)


def _show(findings: Findings, out: Path, *, as_json: bool) -> None:
    if as_json:
        printing.line(printing.spell(findings.to_document()))
    else:
        printing.line(findings.text())
    for path in findings.write(out):
        _told(str(path))
    if findings.is_interrupted:
        raise typer.Exit(Exit.INTERRUPTED)
