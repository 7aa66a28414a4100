"""Files that servers read: what they say, and that somebody writes them meanwhile."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from nt_memory.transport.nats.servers.configuration import Node, Settings, User, render
from nt_memory.transport.nats.servers.directory import write_private

if TYPE_CHECKING:
    from pathlib import Path


def test_who_reads_a_file_that_is_written_finds_all_of_the_old_or_the_new(tmp_path: Path) -> None:
    """A server that starts in that moment would take an empty configuration for the defaults: all addresses,
    and no keys.
    """
    path = tmp_path / "server.conf"
    write_private(path, "old")
    with path.open() as reader:
        write_private(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["server.conf"]


def test_what_was_left_half_written_is_in_nobodys_way(tmp_path: Path) -> None:
    """Whoever was killed in the middle of it leaves a file beside, which is written anew."""
    path = tmp_path / "server.conf"
    (tmp_path / "server.conf.new").write_text("half")
    write_private(path, "whole")
    assert path.read_text() == "whole"
    assert [one.name for one in tmp_path.iterdir()] == ["server.conf"]


def test_a_server_that_runs_elsewhere_listens_there_and_is_reached_there(tmp_path: Path) -> None:
    """It listens on its own address alone, for clients and for servers, and the others' routes lead there;
    who has none listens where all do.
    """
    one, other = Node("one", 4222, 6222), Node("other", 4223, 6223)
    settings = Settings(
        "c", "127.0.0.1", (one, other), User("U"), (), "secret", hosts=(("other", "10.0.0.2"),)
    )
    first, second = (render(settings, node, tmp_path) for node in (one, other))
    assert [line.strip() for line in first.splitlines() if "listen" in line] == [
        'listen: "127.0.0.1:4222"', 'listen: "127.0.0.1:6222"',
    ]  # fmt: skip
    assert [line.strip() for line in second.splitlines() if "listen" in line] == [
        'listen: "10.0.0.2:4223"', 'listen: "10.0.0.2:6223"',
    ]  # fmt: skip
    assert "@10.0.0.2:6223" in first
    assert "@127.0.0.1:6222" in second
