"""Files that servers read, while somebody writes them."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

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
