"""`nt-memory verify`, `repair`, `compact` and `snapshot` at the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nt_memory import MemorySystem
from nt_memory.apps.cli.main import app


@pytest.fixture
def cli():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def made(store, run):
    async def body():
        async with MemorySystem.open(store) as memory:
            for n in range(20):
                await memory.put("a", f"k{n}", n)

    run(body())
    return store


def test_a_sound_store(cli, made):
    """In words and as JSON."""
    said = cli("verify", "--store", made)
    assert said.exit_code == 0
    assert said.output.splitlines()[-1] == "sound"
    found = json.loads(cli("verify", "--store", made, "--json").output)
    assert found["is_ok"] is True
    assert found["revision"] == 22


def test_damage_is_named_and_mended(cli, made):
    """Verify says where and what to do, repair what it did and what is lost, verify is content."""
    (path,) = (made / "journal").iterdir()
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    said = cli("verify", "--store", made)
    assert said.exit_code == 4
    assert f"DAMAGED: {path}" in said.output
    assert f"nt-memory repair --store {made}" in said.output
    said = cli("repair", "--store", made)
    assert said.exit_code == 0
    assert "LOST: the order of the entries" in said.output
    assert cli("verify", "--store", made).exit_code == 0
    assert cli("get", "a", "k7", "--store", made).output == "7\n"
    assert json.loads(cli("repair", "--store", made, "--json").output)["lost"] == []


def test_damage_that_cannot_be_mended(cli, made):
    """The exit code says so."""
    assert cli("compact", "--store", made).exit_code == 0
    (path,) = (made / "base").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    (made / "views" / "STATE").unlink()
    said = cli("repair", "--store", made)
    assert said.exit_code == 4
    assert "LOST: everything" in said.output


def test_compacting_and_copying(cli, made, tmp_path):
    """Both leave sound stores."""
    assert "revision 23" in cli("compact", "--store", made).output
    assert cli("snapshot", tmp_path / "copy", "--store", made).exit_code == 0
    for path in (made, tmp_path / "copy"):
        assert cli("get", "a", "k3", "--store", path).output == "3\n"
        assert cli("verify", "--store", path).exit_code == 0
    assert cli("snapshot", tmp_path / "copy", "--store", made).exit_code == 7


@pytest.mark.parametrize("command", [("verify",), ("repair",), ("compact",), ("snapshot", "x")])
def test_no_store_is_made_by_asking(cli, tmp_path, command):
    """A mistyped path is an error and leaves no trace."""
    name, *more = command
    said = cli(name, *more, "--store", tmp_path / "mistyped")
    assert said.exit_code == 7
    assert "there is no store here" in said.output
    assert not (tmp_path / "mistyped").exists()
