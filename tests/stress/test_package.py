"""What is published: built twice to the same bytes, installed into an empty environment, used from there.

Builds from this checkout, and installs from the package index: `make test-package`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.stress

ROOT = Path(__file__).parents[2]
CORE = 250_000_000
"""Bytes that a plain installation may take, numpy, faiss and LMDB included."""
NEVER_IN_CORE = ("fastapi", "httpx", "mcp", "langgraph", "pyarrow", "prometheus_client", "nats")

# What is missing without an extra, and the extra that the error has to name.
MISSING = {
    "langgraph": "import nt_memory.integrations.langgraph",
    "openai": "from nt_memory.embedders import OpenAIEmbedder; "
    "OpenAIEmbedder('m', dim=8, api_key='k', base_url='http://127.0.0.1:9').embed(['a'])",
    "sentence-transformers": "from nt_memory.embedders import SentenceTransformersEmbedder; "
    "SentenceTransformersEmbedder('m').embed(['a'])",
}


# What an extra makes possible, alone: a program that says what it reached.
ALONE = {
    "server": "from nt_memory.apps.server.app import create_app; print(create_app.__name__)",
    "mcp": "from nt_memory.apps.mcp.door import McpDoor; print(McpDoor.__name__)",
    "langgraph": "from nt_memory.integrations.langgraph import NtMemoryStore; print(NtMemoryStore)",
    "openai": "from nt_memory.embedders import OpenAIEmbedder; "
    "print(OpenAIEmbedder('m', dim=8, api_key='k', base_url='http://127.0.0.1:9').version)",
    "agentdb": "from nt_memory.tiers.agentdb.client import AgentDBClient; "
    "print(AgentDBClient('http://127.0.0.1:9').url)",
    "client": "from nt_memory.apps.cli.remote.client import _import_httpx; print(_import_httpx())",
    "cluster": "from nt_memory.system.joining import open_node; print(open_node.__name__)",
    "parquet": """
import asyncio
from nt_memory import MemorySystem
async def main():
    async with MemorySystem.open("store") as memory:
        await memory.put("a", "k", 1)
        print(await memory.export("whole.parquet"))
asyncio.run(main())
""",
}
OF_EXTRAS = (
    "nt_memory.apps.mcp.",
    "nt_memory.apps.server.",
    "nt_memory.integrations.langgraph.",
    "nt_memory.transport.nats.",
)
IMPORT_S = 0.150
"""What `import nt_memory` may take, at its best of several."""


def run(*command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def ok(*command: str | Path, cwd: Path, **more: str) -> str:
    done = run(*command, cwd=cwd, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheel and sdist."""
    out = tmp_path_factory.mktemp("dist")
    ok(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-d",
        out,
        cwd=ROOT,
        SOURCE_DATE_EPOCH="1700000000",
    )
    return out


@pytest.fixture(scope="module")
def home(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and what it depends on, and nothing else."""
    home = tmp_path_factory.mktemp("env")
    ok(sys.executable, "-m", "venv", home / "venv", cwd=home)
    (wheel,) = built.glob("*.whl")
    begun = time.perf_counter()
    pip = (home / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    ok(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=home)
    print(f"installed in {time.perf_counter() - begun:.1f} s")
    return home


def test_the_same_source_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Whoever builds this version again can compare."""
    ok(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-d",
        tmp_path,
        cwd=ROOT,
        SOURCE_DATE_EPOCH="1700000000",
    )
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (built, tmp_path)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2


def test_a_plain_installation_is_small(home: Path) -> None:
    """No extra's library comes along, and the whole is a few files of reasonable size."""
    site = next((home / "venv/lib").glob("python*/site-packages"))
    names = {path.name for path in site.iterdir()}
    assert not names & set(NEVER_IN_CORE)
    pip = set(site.glob("pip*"))
    size = sum(
        path.stat().st_size
        for top in site.iterdir()
        if top not in pip
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file()
    )
    print(f"{size / 1e6:.0f} MB")
    assert size < CORE


def test_an_import_loads_nothing_slow(home: Path) -> None:
    """`import nt_memory` loads what is asked for of it, and no library before that: under 150 ms.

    The best of several: how fast it can be, not how busy the machine is.
    """
    script = (
        "import sys, time; t = time.perf_counter(); import nt_memory; "
        "print(time.perf_counter() - t); print(*sys.modules)"
    )
    python = home / "venv/bin/python"
    runs = [ok(python, "-c", script, cwd=home).splitlines() for _ in range(5)]
    best = min(float(took) for took, _ in runs)
    loaded = runs[0][1]
    whole = "import time; t = time.perf_counter(); from nt_memory import MemorySystem; print(time.perf_counter() - t)"
    of_class = min(float(ok(python, "-c", whole, cwd=home)) for _ in range(5))
    print(f"import {1000 * best:.0f} ms, with MemorySystem {1000 * of_class:.0f} ms")
    assert best < IMPORT_S
    assert not set(loaded.split()) & {"numpy", "faiss", "lmdb", "asyncio", "typer", "msgspec"}


def test_examples_and_commands_work_from_it(home: Path) -> None:
    """What a reader tries first, without a checkout at hand."""
    python, command = home / "venv/bin/python", home / "venv/bin/nt-memory"
    for name in ("quickstart.py", "market_maker.py", "risk_committee.py"):
        shutil.copy(ROOT / "examples" / name, home / name)
        ok(python, name, cwd=home)
    ok(command, "put", "a", "k", '{"x": 1}', "--store", "store", cwd=home)
    assert json.loads(ok(command, "get", "a", "k", "--store", "store", "--json", cwd=home))


@pytest.mark.parametrize("extra", MISSING)
def test_a_missing_extra_says_how_to_get_it(home: Path, extra: str) -> None:
    """The error names the command to install it."""
    done = run(home / "venv/bin/python", "-c", MISSING[extra], cwd=home)
    assert done.returncode != 0
    assert f"pip install 'nt-memory[{extra}]'" in done.stderr


@pytest.mark.parametrize("extra", ALONE)
def test_each_extra_is_enough_for_what_it_is_for(
    built: Path, home: Path, tmp_path: Path, extra: str
) -> None:
    """No extra works only because another one is installed, too; without it the same fails."""
    program = ALONE[extra]
    assert run(home / "venv/bin/python", "-c", program, cwd=tmp_path).returncode
    (wheel,) = built.glob("*.whl")
    python = tmp_path / "venv/bin/python"
    ok(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    begun = time.perf_counter()
    # Not compiled: most of what is installed is never imported here, and compiling takes the longest.
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile")
    ok(*pip, "-c", ROOT / "constraints.txt", f"{wheel}[{extra}]", cwd=tmp_path)
    print(f"{extra}: installed in {time.perf_counter() - begun:.1f} s")
    assert ok(python, "-c", program, cwd=tmp_path)


@pytest.mark.parametrize(("command", "extra"), [("serve", "server"), ("mcp", "mcp")])
def test_a_command_without_its_extra_says_how_to_get_it(
    home: Path, command: str, extra: str
) -> None:
    """So does the command line, in a line and without a traceback."""
    done = run(home / "venv/bin/nt-memory", command, "--store", "store", cwd=home)
    assert done.returncode != 0
    assert f"pip install 'nt-memory[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_public_names_are_typed(home: Path) -> None:
    """Seen from outside, the type of every name is known, but for what is made of an extra's library.

    With the extras all of them are: `make check`.
    """
    found = run(sys.executable, ROOT / "tools/completeness.py", home / "venv/bin", cwd=home)
    *unknown, score = found.stdout.splitlines()
    print(score)
    assert re.fullmatch(r"\d+\.\d% of \d\d,\d{3} symbols", score)
    assert [line for line in unknown if not line.startswith(OF_EXTRAS)] == []


def test_the_guarantees_hold_in_it(home: Path) -> None:
    """The tests of the guarantees pass on what is installed, not on the sources beside them."""
    pip = (home / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    ok(*pip, "-c", ROOT / "constraints.txt", "pytest", "pytest-timeout", "hypothesis", cwd=home)
    shutil.copytree(ROOT / "tests", home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "pytest.ini").write_text("[pytest]\nmarkers = stress\n")
    out = ok(
        *(home / "venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-c", "pytest.ini", "--rootdir", home, "--import-mode=importlib"),
        "tests/unit/test_guarantees.py",
        cwd=home,
    )
    assert re.search(r"\d\d passed", out), out
