"""Many rows are unsealed as one is: the same values, and the same damage found."""

import pytest

from nt_memory.errors import CorruptionError
from nt_memory.tiers.sealing import seal, unseal, unseal_rows

ROWS = [(b"a", b""), (b"b", b"x" * 100), (b"c", b"y" * 8_192), (b"d", b"z" * 100_000)]


@pytest.mark.parametrize("table", [b"versions", b"meta"])
def test_rows_of_every_size_are_unsealed(table):
    """Also those over 8 KiB, whose checksum covers their ends."""
    stored = [(key, seal(table, key, value)) for key, value in ROWS]
    assert list(unseal_rows(table, stored)) == ROWS
    assert [unseal(table, key, value) for key, value in stored] == [value for _, value in ROWS]


@pytest.mark.parametrize("place", range(len(ROWS)))
@pytest.mark.parametrize("how", ["flipped", "cut", "of another key"])
def test_a_damaged_row_is_found_when_it_comes(place, how):
    """Those before it were given; it is named."""
    stored = [(key, seal(b"versions", key, value)) for key, value in ROWS]
    key, value = stored[place]
    if how == "flipped":
        stored[place] = (key, value[:-1] + bytes([value[-1] ^ 1]))
    elif how == "cut":
        stored[place] = (key, value[:3])
    else:
        stored[place] = (key, seal(b"versions", b"e", ROWS[place][1]))
    rows = unseal_rows(b"versions", stored)
    assert [next(rows) for _ in range(place)] == ROWS[:place]
    with pytest.raises(CorruptionError, match=f"row {key!r}"):
        next(rows)
