"""`nt-memory export` and `nt-memory import`: move data between stores, and out of them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.completing import agents as complete_agents
from nt_memory.apps.cli.exits import NotThereError
from nt_memory.apps.cli.options import AsJson, Store
from nt_memory.apps.cli.running import in_directory, is_cluster, locate, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory import MemorySystem
    from nt_memory.records import Export

_progress = contextmanager(printing.progress)


def export(
    target: Annotated[
        str,
        typer.Argument(help="File or directory to make; - writes to stdout.", show_default=False),
    ],
    *,
    format_: Annotated[
        Literal["jsonl", "parquet"] | None,
        typer.Option("--format", help="Default: parquet if TARGET ends with .parquet, else jsonl."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            "--agent",
            metavar="AGENT",
            help="Only its versions, for reading; may be repeated.",
            autocompletion=complete_agents,
        ),
    ] = None,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Write all that a store holds, as of now, as JSON Lines or Parquet; others may be using it.

    What was written is said on stderr; with --json on stdout, unless the export goes there.
    """
    if is_cluster(store):
        done = _export_cluster(store, target, format_, agent or ())
    else:
        from nt_memory.system.exporting import export_store  # noqa: PLC0415 - slow

        with _progress() as told:
            done = export_store(
                path_of(
                    store,
                    "name its directory with --store where it is; export works beside a server",
                ),
                target,
                format=format_,
                agents=agent or (),
                progress=printing.named(told, "exported"),
            )
    if not json:
        printing.note(f"exported {done.rows:,} rows as of revision {done.revision}")
        return
    from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

    doc = documents.taken_from(documents.Export, done)
    if target == "-":
        sys.stdout.flush()
        printing.note(printing.spell(documents.to_builtins(doc)))
    else:
        printing.document(doc)


def _export_cluster(
    store: str | None,
    target: str,
    format_: Literal["jsonl", "parquet"] | None,
    agents: Sequence[str],
) -> Export:
    """Export a swarm, by a node of its own that is as far as all are."""
    found: list[Export] = []

    async def body(memory: MemorySystem) -> None:
        found.append(await memory.export(target, format=format_, agents=agents))

    in_directory(body, store, instead="", writes=True)
    return found[0]


def import_(
    source: Annotated[
        str,
        typer.Argument(help="What export made; - reads stdin.", show_default=False),
    ],
    *,
    store: Store = None,
    json: AsJson = False,
) -> None:
    """Make the store that an export was made from, in a directory that is missing or empty.

    Interrupted, it goes on when it is run again; repeated, it changes nothing.

    With a cluster as the store: begin a swarm with it, which nobody may have opened yet. It takes the
    operator's credentials.
    """
    from nt_memory.system.importing import import_store  # noqa: PLC0415 - slow
    from nt_memory.system.opening import make_views  # noqa: PLC0415

    if source != "-" and not Path(source).exists():
        raise NotThereError(f"{source}: there is no such export")
    target = (
        locate(store)[0]
        if is_cluster(store)
        else path_of(store, "import into a directory, then serve that")
    )
    with _progress() as told:
        done = import_store(source, target, progress=printing.named(told, "imported"))
        if done.is_new and isinstance(target, Path):
            make_views(target)  # so that commands that only read find them
    if json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - numpy

        printing.document(documents.taken_from(documents.Import, done))
    elif done.is_new:
        printing.note(f"imported {done.rows:,} rows as of revision {done.revision}")
    else:
        printing.note(f"{target} was made from this export before: nothing changed")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "The store")
    family.add(
        export,
        "export backup.jsonl.zst",
        "export research.parquet --store ./data/memory",
        "export - --agent agent_1 | jq -c .key",
        document="Export",
    )
    family.add(
        import_,
        "import backup.jsonl.zst --store ./data/restored",
        "import backup.jsonl.zst --store nats://127.0.0.1:4222/desk",
        document="Import",
        damaged="export it once more, and compare what the two say of their digest",
    )
