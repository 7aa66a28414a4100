"""Fixtures for tests of the whole demo, on synthetic prices, and of a server that runs."""

from __future__ import annotations

import runpy
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.apps.demo.figures import write_forecasts
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.run import STORE, plan_run, run_demo

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
