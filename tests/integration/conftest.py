"""Fixtures for tests of the whole demo, on synthetic prices, of a server that runs, and of the command line."""

from __future__ import annotations

import asyncio
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import nt_memory
from nt_memory import MemorySystem, Policy, Proposal, Trajectory, Vote
from nt_memory.apps.cli import documents
from nt_memory.apps.cli.main import LISTED
from nt_memory.apps.demo.figures import write_forecasts
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.run import STORE, plan_run, run_demo
from nt_memory.clock import SystemClock, to_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from nt_memory.apps.demo.result import DemoResult
    from nt_memory.apps.demo.run import Plan


@dataclass(frozen=True)
class Finished:
    """A run that ended: what was asked, what it found, and what it wrote."""

    options: DemoOptions
    result: DemoResult

    @property
    def plan(self) -> Plan:
        """What was traded."""
        return plan_run(self.options)

    @property
    def store(self) -> Path:
        """The memory it left."""
        return self.options.out / STORE

    def forecast_lines(self) -> list[bytes]:
        """The lines of `forecasts.csv`."""
        path = self.options.out / "forecasts.csv"
        write_forecasts(self.result, path)
        return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="session")
def synthetic() -> SimpleNamespace:
    """`prices(n_days)`, `weekdays(n_days)` and `write_prices(path, prices)`."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "demo_prices.py")))


@pytest.fixture(scope="session")
def demo(
    synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Finished]:
    """`demo(prices)`: one run in a directory of its own; other arguments are its options."""

    def run(closes: NDArray[Any] | None = None, progress: Any = None, **options: Any) -> Finished:
        folder = tmp_path_factory.mktemp("demo")
        prices = synthetic.prices() if closes is None else closes
        given = {
            "prices": synthetic.write_prices(folder / "prices.csv", prices),
            "out": folder / "report",
            "years": 1,
            **options,
        }
        asked = DemoOptions(**given)
        return Finished(asked, run_demo(asked, progress))

    return run


@pytest.fixture(scope="session")
def finished(demo: Callable[..., Finished]) -> Finished:
    """A whole run that tests only look at."""
    return demo()


class RunningServer:
    """`nt-memory serve` on a thread of this process, on a free port; its log is kept.

    Attributes:
        url: Where it is.
    """

    def __init__(self, target: Any, settings: Any, **options: Any) -> None:
        from nt_memory.apps.server.running import run

        self.url = ""
        self._stop: Callable[[], None] = lambda: None
        self._is_up = threading.Event()
        self._failure: BaseException | None = None

        def started(url: str, stop: Callable[[], None]) -> None:
            self.url, self._stop = url, stop
            self._is_up.set()

        def work() -> None:
            try:
                run(target, settings, started=started, **options)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                self._failure = error
            finally:
                self._is_up.set()

        self._thread = threading.Thread(target=work, name="server")
        self._thread.start()
        assert self._is_up.wait(30), "the server did not start"
        if self._failure is not None:
            raise self._failure

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def ask_to_stop(self) -> None:
        """Stop soon; returns at once."""
        self._stop()

    def stop(self) -> None:
        """Stop, and wait until the store is closed."""
        self._stop()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"
        if self._failure is not None:
            raise self._failure


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """`running(settings=…)`: a server of the store in `tmp_path`, stopped after the test."""
    from nt_memory.apps.server.settings import ServerSettings

    servers: list[RunningServer] = []

    def start(settings: Any = None, target: Any = None, **options: Any) -> RunningServer:
        given = settings or ServerSettings(port=0)
        servers.append(RunningServer(target or tmp_path / "store", given, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


# --- the command line -------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs `nt-memory` in a process of its own: `cli("get", "a", "k", store=path)`."""

    def __init__(self, home: Path) -> None:
        source = str(Path(nt_memory.__file__).parent.parent)
        kept = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("NT_", "_NT_", "_TYPER", "PYTHON"))
        }
        self.environment = {**kept, "PYTHONPATH": source, "HOME": str(home), "TERM": "xterm"}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, store: Path | str | None = None, **options: Any) -> Any:
        """The process, with pipes, and a group of its own."""
        given = {"NT_MEMORY_URL": str(store)} if store is not None else {}
        environment = {**self.environment, **given, **options.pop("env", {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "nt_memory.apps.cli.main", *map(str, arguments)],
            env=environment,
            stdin=options.pop("stdin", subprocess.PIPE),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what still runs, with all that it has started."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def __call__(
        self, *arguments: object, store: Path | str | None = None, stdin: str = "", **options: Any
    ) -> Said:
        """Run it to its end; it never shows a traceback."""
        process = self.start(*arguments, store=store, **options)
        out, err = process.communicate(stdin, timeout=COMMAND_S)
        assert "Traceback" not in err, err
        return Said(process.returncode, out or "", err)

    def documents(
        self, *arguments: object, store: Path | str | None = None, **options: Any
    ) -> list[Any]:
        """What it prints with `--json`, each line checked against the command's schema."""
        said = self(*arguments, "--json", store=store, **options)
        assert said.code == 0, said.err
        return read_documents(str(arguments[0]), said.out)


def read_documents(command: str, text: str) -> list[Any]:
    """The documents of a command, each of the type that is listed for it."""
    listed = LISTED[command]
    decoder = msgspec.json.Decoder(getattr(documents, listed.document))
    found = [decoder.decode(line) for line in text.splitlines()]
    assert listed.streams or len(found) == 1
    return found


COMMAND_S = 40.0


@pytest.fixture
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, in processes of its own."""
    found = CommandLine(tmp_path_factory.mktemp("home"))
    yield found
    found.close()


async def _fill(path: Path) -> None:
    """Something for every command that reads."""
    start = SystemClock().now_us()
    async with MemorySystem.open(path) as memory:
        await memory.put("desk_1", "position", {"AAPL": 10})
        await memory.put("desk_1", "position", {"AAPL": 25})
        await memory.put("desk_1", "note", "hold")
        await memory.put("desk_2", "raw", b"\x00\xff", ttl=1e6)
        await memory.delete("desk_1", "note")
        for n in range(12):
            angle = n / 12
            await memory.observe(
                "desk_1",
                [1.0 - angle, angle, 0.1],
                {"n": n},
                key=f"seen/{n:02}",
                tags=["even"][n % 2 :],
            )
        bank = memory.bank
        await bank.define("forecast", target="volatility", unit="%", horizon=timedelta(hours=1))
        for n in range(60):
            at = to_datetime(start - (1_000 - n) * 3_600_000_000)
            built = Trajectory("desk_1", id=f"t/{n:02}")
            built.add_observation({"n": n}, [1.0, n / 60, 0.5], at=at)
            built.add_action("forecast", {"n": n}, 1.0 + n / 60, baseline=1.0, at=at)
            built.add_outcome(1.0 + n / 50, at=at + timedelta(hours=2)).complete()
            await memory.track_trajectory(built)
        await bank.distill("desk_1")
        await memory.consensus.register_agent("desk_1")
        await memory.consensus.register_agent("desk_2", 2)
        for name in ("open-1", "done-1"):
            await memory.consensus.submit_proposal(
                Proposal("desk_1", {"sell": name}, id=name, quorum="1/2")
            )
        await memory.consensus.vote(Vote("done-1", "desk_2", True))
        await memory.set_policy("guest", Policy(read=("desk_2/**",)))
        await memory.acquire_lock("book", holder="keeper", lease=3_600.0)


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something of everything, which tests only read."""
    path = tmp_path_factory.mktemp("store") / "memory"
    asyncio.run(_fill(path))
    return path


@pytest.fixture(scope="session")
def looked_at_url(looked_at: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a copy of it, which follows that without opening it for writing.

    Of a copy, since `own` copies the original in this process, and a POSIX lock on a file, such as
    LMDB's, is gone once its process closes the file, however often it is open.
    """
    from nt_memory.apps.server.settings import ServerSettings

    path = tmp_path_factory.mktemp("served") / "memory"
    shutil.copytree(looked_at, path)
    server = RunningServer(path, ServerSettings(port=0), read_only=True)
    yield server.url
    server.stop()


KINDS = ("directory", "server")


@pytest.fixture(params=KINDS)
def read_from(request: pytest.FixtureRequest, looked_at: Path) -> Path | str:
    """The store to read: its directory, and then once more over a server."""
    if request.param == "directory":
        return looked_at
    url: str = request.getfixturevalue("looked_at_url")
    return url


@pytest.fixture(params=KINDS)
def written_to(request: pytest.FixtureRequest, own: Path) -> Path | str:
    """The same for a store to write to."""
    if request.param == "directory":
        return own
    url: str = request.getfixturevalue("running")(target=own).url
    return url


@pytest.fixture
def own(looked_at: Path, tmp_path: Path) -> Path:
    """A copy of it, to write to."""
    path = tmp_path / "memory"
    shutil.copytree(looked_at, path)
    return path
