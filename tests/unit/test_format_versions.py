"""What a newer version wrote is refused by name, in every kind of file, and left as it is."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from zlib import crc32

import pytest

from nt_memory import MemorySystem, import_store
from nt_memory.codec import decode, encode
from nt_memory.entries import decode_entry
from nt_memory.errors import CodecError, FormatVersionError
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify
from nt_memory.tiers.vectors import VectorFiles, is_snapshot_whole
from nt_memory.tiers.vectors.snapshots import Description, write_snapshot
from nt_memory.transport.segment_writer import SegmentWriter
from nt_memory.transport.segments import list_segments

FIXTURE = Path(__file__).parent.parent / "fixtures" / "store_v1_full"
NEWER = 99


def newer_format(store: Path) -> None:
    """FORMAT, of the store as a whole."""
    path = store / "FORMAT"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": NEWER}))


def newer_segment(store: Path) -> None:
    """The newest segment's header."""
    path = max((store / "journal").iterdir())
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", NEWER)
    data[32:36] = struct.pack("<I", crc32(data[:32]))
    path.write_bytes(data)


def newer_base(store: Path) -> None:
    """The base's preamble."""
    (path,) = (store / "base").iterdir()
    data = bytearray(path.read_bytes())
    data[8:16] = struct.pack("<II", NEWER, crc32(b"NTMBASE\0", NEWER))
    path.write_bytes(data)


def newer_entry(store: Path) -> None:
    """One entry behind all others, in a sound frame."""
    writer = SegmentWriter(store / "journal", {})
    writer.append([(bytes([NEWER]) + b"whatever it says", None)], writer.recorded_at + 1)
    writer.sync()
    writer.close()
    assert list_segments(store / "journal")


@pytest.mark.parametrize("change", [newer_format, newer_segment, newer_base, newer_entry])
@pytest.mark.parametrize("has_views", [True, False])
def test_a_newer_store_is_refused(tmp_path, run, change, has_views):
    """By opening (also for reading, where that has to look at it), `verify` and `repair`."""
    store = tmp_path / "store"
    shutil.copytree(FIXTURE, store)
    if not has_views:
        shutil.rmtree(store / "views")
        shutil.rmtree(store / "vectors")
    change(store)
    truth = ("FORMAT", "base", "journal")
    before = {
        # Without the space that the newest segment reserves, which opening may give back.
        path: path.read_bytes().rstrip(b"\0")
        for part in truth
        for path in [store / part, *(store / part).glob("*")]
        if path.is_file()
    }

    async def body():
        with pytest.raises(FormatVersionError, match=str(NEWER)):
            async with MemorySystem.open(store):
                pass

    # Views that reach past a base are opened without a look at it.
    if not (change is newer_base and has_views):
        run(body())
    for call in (verify, repair):
        with pytest.raises(FormatVersionError, match=str(NEWER)):
            call(store)
    assert {path: path.read_bytes().rstrip(b"\0") for path in before} == before


def test_a_newer_entry_is_refused():
    """Never skipped."""
    with pytest.raises(FormatVersionError, match=str(NEWER)):
        decode_entry(bytes([NEWER]) + b"\x90")


def test_a_newer_value_is_refused():
    """The other values of the store can be read."""
    data = bytearray(encode({"a": 1}))
    data[0] = NEWER
    data[2:6] = struct.pack("<I", crc32(data[6:], crc32(data[:2])))
    with pytest.raises(CodecError, match=str(NEWER)):
        decode(bytes(data))


def test_newer_vector_rows_are_refused(tmp_path):
    """They are not read as numbers."""
    files = VectorFiles(tmp_path)
    files.write(0, 4, 0, bytes(8))
    files.close()
    data = bytearray(files.path(0).read_bytes())
    data[8:12] = struct.pack("<I", NEWER)
    files.path(0).write_bytes(data)
    with pytest.raises(FormatVersionError, match=str(NEWER)):
        VectorFiles(tmp_path).read(0, 4, 0, 1)


def test_a_newer_index_is_ignored(tmp_path):
    """It is never trusted, and is built anew."""
    path = tmp_path / "0.hnsw"
    write_snapshot(path, Description(4, 0, 1, 7, "", 0), lambda write: write(b"graph"))
    assert is_snapshot_whole(path)
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<I", NEWER)
    header = len(data) - len(b"graph") - 4
    data[header : header + 4] = struct.pack("<I", crc32(data[:header]))
    path.write_bytes(data)
    assert not is_snapshot_whole(path)


def test_a_newer_export_is_refused(tmp_path):
    """Nothing is made of it."""
    header = b'{"format":"nt-memory-export","version":99}'
    line = header[:-1] + b',"crc":"%08x"}\n' % crc32(header, 1)
    (tmp_path / "export.jsonl").write_bytes(line)
    with pytest.raises(FormatVersionError, match=str(NEWER)):
        import_store(tmp_path / "export.jsonl", tmp_path / "made")
    assert not (tmp_path / "made").exists()
