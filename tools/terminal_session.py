"""Record a newcomer's first session: write docs/tutorial/first-session.md from commands that are really run.

    make session      (or .venv/bin/python tools/terminal_session.py)

Every command runs in one empty directory on a terminal of 100 columns, in this order, with the environment
of a newcomer; what it prints goes onto the page as it is, long output cut where the page says so. A test
runs the quick ones again, on another store, so that the page cannot name what is no longer there.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "tutorial" / "first-session.md"
STORE = "demo-report/memory"
PORT = 3000
COLUMNS, LINES = 100, 40
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[()][0-9A-B]|\x1b[=>]")


@dataclass(frozen=True)
class Step:
    """One command of the session.

    Attributes:
        command: What is typed.
        says: Markdown before it; empty: it follows the one before in the same block.
        how: "quick" (a test runs it too), "slow" (only the recording does), "serve" (it stays, in the
            background), or "shown" (it is not run: it needs another program, or the network).
        shows: How many lines of its output the page has at most.
    """

    command: str
    says: str = ""
    how: str = "quick"
    shows: int = 12


_HEAD = """\
# A first session

<!-- Written by tools/terminal_session.py (`make session`), which runs these commands. -->

What a terminal shows from the installation to an agent of your own in an MCP host: half an hour, most of it looking. The
output is recorded, as it came; `…` stands for lines left out.
"""
STEPS = (
    Step(
        "pip install 'nt-memory[server,client,mcp]'",
        "## Install\n\nInto a virtual environment; in a checkout of the repository it is "
        "`pip install '.[server,client,mcp]'`. `doctor` looks whether the machine is fit.",
        how="shown",
    ),
    Step("nt-memory doctor | cut -f1-3 | cut -c1-90 | head -5"),
    Step(
        "nt-memory demo --quick --out demo-report",
        "## Let a swarm trade\n\nTwenty agents, one a stock, trade real prices with a memory and without. Without "
        "`--quick` it is eight years and takes some minutes. Its progress, on "
        "stderr, is left out here.",
        how="slow",
        shows=40,
    ),
    Step(
        f"export NT_MEMORY_URL={STORE}",
        "## Look around\n\nThe demo leaves its memory behind. It is an ordinary directory, which commands open for "
        "reading even while another process writes it.",
    ),
    Step("nt-memory agents", shows=9),
    Step("nt-memory stats | head -4"),
    Step("nt-memory trajectories AAPL -n 3"),
    Step(
        "nt-memory trajectories AAPL --json | jq -r 'select(.score) | .id' | tail -1 > id",
        "One decision, step by step: what was seen, what was predicted, what came, and how good that was. With `--json` every "
        "line is a document, for `jq` and for scripts.",
    ),
    Step('nt-memory trajectories AAPL "$(cat id)"'),
    Step(
        "nt-memory patterns AAPL",
        "What kinds of situations there were, and what they led to; `distill` looks for them anew:",
        shows=9,
    ),
    Step("nt-memory distill AAPL > patterns.txt; wc -l < patterns.txt"),
    Step("nt-memory tail -n 3"),
    Step(
        'nt-memory put me note \'{"watch": "AAPL"}\'',
        "Writing is as plain, and nothing that was is lost:",
    ),
    Step('nt-memory put me note \'{"watch": "XOM"}\''),
    Step("nt-memory history me note"),
    Step(
        f"nt-memory serve --store {STORE} --mcp",
        "## Serve it\n\nIn another terminal, or with `&` as here. It listens for this machine alone; its log is JSON on stderr.",
        how="serve",
    ),
    Step(
        f"export NT_MEMORY_URL=http://127.0.0.1:{PORT}",
        "The same commands work over it, from any number of processes, and now writing too. Where it asks for "
        "tokens, put one into `NT_MEMORY_TOKEN`.",
    ),
    Step("nt-memory get me note"),
    Step("nt-memory put me seen/first '\"over HTTP\"'"),
    Step('nt-memory propose me \'{"sell": "XOM"}\' --id first --voter me --voter you'),
    Step("nt-memory vote first me yes"),
    Step("nt-memory vote first you yes"),
    Step("nt-memory lock book --holder me -- sh -c 'nt-memory lock book'"),
    Step("nt-memory publish me/hello '\"anybody?\"'"),
    Step(f"curl -s http://127.0.0.1:{PORT}/v1/state/me/note | jq -c .value"),
    Step(
        f"xdg-open http://127.0.0.1:{PORT}/",
        "## Open the page\n\nThe same server has a page for the browser (`open` on macOS). For a terminal there is "
        "`nt-memory stats --live`.",
        how="shown",
    ),
    Step(
        f"claude mcp add --transport http nt-memory http://127.0.0.1:{PORT}/mcp",
        "## Connect an MCP host\n\nHere Claude Code; [others](../how-to/connect-an-mcp-host.md) are told in a file of theirs. The "
        "request below is the first one that a host sends.",
        how="shown",
    ),
    Step(
        f"""curl -s http://127.0.0.1:{PORT}/mcp -H 'content-type: application/json' \\
    -H 'accept: application/json, text/event-stream' -d '{{"jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {{"protocolVersion": "2025-06-18", "capabilities": {{}}, "clientInfo": {{"name": "me", "version": "1"}}}}}}' \\
    | grep -o '"serverInfo":[^}}]*}}'""",
    ),
)
_TAIL = """
Ask it *"What do you remember about AAPL, and how good were its forecasts?"*

From here: [a first memory](first-memory.md) and [a first swarm](first-swarm.md) in Python, [the command
line](../reference/cli.md), [serving](../how-to/serve.md) to other machines.
"""


class Session:
    """A terminal in a directory, and what was exported in it.

    Args:
        folder: Where commands run.
        port: Of the server, in place of the one on the page.
    """

    def __init__(self, folder: Path, port: int = PORT) -> None:
        self._folder = folder
        self._port = port
        binaries = Path(sys.executable).parent
        kept = {
            name: os.environ[name]
            for name in ("HOME", "LANG", "SSL_CERT_FILE")
            if name in os.environ
        }
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self._environment = {**kept, **size, "PATH": path, "TERM": "xterm", "NO_COLOR": "1"}
        self._servers: list[subprocess.Popen[bytes]] = []

    def run(self, step: Step) -> tuple[int, str]:
        """Run a command to its end, or until it serves; its exit code, and what the terminal showed."""
        command = step.command.replace(str(PORT), str(self._port))
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._environment[name] = value
            return 0, ""
        if step.how == "serve":
            return 0, self._serve(command)
        return self._on_terminal(command, is_quiet=step.how == "slow")

    def close(self) -> None:
        """Stop what serves."""
        for server in self._servers:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
            if server.stdout is not None:
                server.stdout.close()

    def _serve(self, command: str) -> str:
        with (self._folder / "serve.log").open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command} --port {self._port}"],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._servers.append(server)
        assert server.stdout is not None  # noqa: S101 - a pipe
        said = server.stdout.readline().decode().rstrip()
        if not said:
            raise RuntimeError((self._folder / "serve.log").read_text())
        return said

    def _on_terminal(self, command: str, *, is_quiet: bool) -> tuple[int, str]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.DEVNULL if is_quiet else slave,
        )
        os.close(slave)
        shown = b""
        while select.select([master], [], [], 600)[0]:
            try:
                part = os.read(master, 65_536)
            except OSError:  # Linux's end of file, once nobody has the terminal open
                break
            if not part:
                break
            shown += part
        os.close(master)
        return process.wait(), plain(shown.decode())


def plain(shown: str) -> str:
    """What stays on a terminal: no escapes, and of a line that was written over only its last state."""
    lines = _ESCAPES.sub("", shown).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in lines).strip("\n")


@contextmanager
def session(folder: Path, port: int = PORT) -> Iterator[Session]:
    """A session that is closed at the end."""
    found = Session(folder, port)
    try:
        yield found
    finally:
        found.close()


def record(folder: Path, steps: Sequence[Step] = STEPS) -> str:
    """The page.

    Raises:
        RuntimeError: a command failed.
    """
    parts = [_HEAD]
    with session(folder) as terminal:
        for step in steps:
            sys.stderr.write(f"$ {step.command}\n")
            code, shown = (0, "") if step.how == "shown" else terminal.run(step)
            if code:
                raise RuntimeError(f"{step.command}: exit code {code}\n{shown}")
            if step.says:
                end = "```\n" if len(parts) > 1 else ""
                parts.append(f"{end}\n{step.says}\n\n```console\n")
            behind = " &" if step.how == "serve" else ""
            parts.append(f"$ {step.command}{behind}\n{_cut(shown, step.shows)}")
    return "".join([*parts, "```\n", _TAIL])


def _cut(shown: str, most: int) -> str:
    lines = shown.split("\n") if shown else []
    if len(lines) > most:
        lines = [*lines[:most], "…"]
    return "".join(f"{line}\n" for line in lines)


def commands_on(page: str) -> list[str]:
    """The commands that a page shows."""
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def is_served(port: int) -> bool:
    """Whether something answers on a port already."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    """Record, and write the page."""
    if missing := [name for name in ("bash", "curl", "jq") if shutil.which(name) is None]:
        sys.exit(f"this needs {', '.join(missing)}")
    if is_served(PORT):
        sys.exit(f"something serves on port {PORT} already")
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(record(Path(folder)))


if __name__ == "__main__":
    main()
