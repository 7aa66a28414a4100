"""The list of commands: what each is called, what examples its help shows, what its JSON is.

`--help`, the reference in docs/reference/cli.md and the tests are made from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from nt_memory.apps.cli.exits import DAMAGED, IN_USE
from nt_memory.apps.cli.running import within_reports

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of a command.

    Attributes:
        name: Of the command, with its group's before it.
        panel: Under which heading `--help` lists it.
        examples: Of its use, without the prompt.
        document: Name of the type in `documents` that `--json` prints; empty: plain figures.
        streams: `--json` prints any number of them, one a line.
    """

    name: str
    panel: str
    examples: tuple[str, ...]
    document: str
    streams: bool


LISTED: dict[str, Described] = {}


class TwoWords(TyperGroup):
    """Commands, some of which have two words: `import agentdb` beside `import`."""

    # Typer's classes are click's or its own copy of them, by version.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # type: ignore[explicit-override]
        """The command that the first words name, and the words after them."""
        both = " ".join(args[:2])
        if both in self.commands:
            return both, self.commands[both], args[2:]
        return super().resolve_command(ctx, args)


@dataclass(frozen=True, slots=True)
class Family:
    """Some commands under one heading.

    Attributes:
        app: What they are added to.
        panel: The heading.
        group: Name of the command that they are below of; empty: of none.
    """

    app: typer.Typer
    panel: str
    group: str = ""

    def add(
        self,
        command: Callable[..., None],
        *examples: str,
        name: str = "",
        document: str = "",
        streams: bool = False,
        in_use: str = IN_USE,
        damaged: str = DAMAGED,
    ) -> None:
        """Add a command.

        Args:
            command: Its docstring is its help; its parameters are its options.
            examples: What its help shows, after `nt-memory`.
            name: By default the function's.
            document: See `Described`.
            streams: See `Described`.
            in_use: What to advise when another process has the store.
            damaged: What to advise when something is damaged.
        """
        own = name or command.__name__.rstrip("_")
        full = f"{self.group} {own}".strip()
        spelled = tuple(f"nt-memory {example}" for example in examples)
        LISTED[full] = Described(full, self.panel, spelled, document, streams)
        self.app.command(
            own,
            epilog="\n\n".join(["Examples:", *(f"`{example}`" for example in spelled)]),
            rich_help_panel=None if self.group else self.panel,
        )(within_reports(command, in_use=in_use, damaged=damaged))
