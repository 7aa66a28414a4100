"""Price files: read exactly, or refused with the line and column."""

from __future__ import annotations

import gzip
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nt_memory.apps.demo.prices import MIN_DAYS, Panel, load_carried, load_csv
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def rows(n_days: int = MIN_DAYS) -> list[str]:
    start = date(2001, 1, 1)
    return [
        "Date,AAA,B.B",
        *(f"{start + timedelta(days=n)},{10 + n / 8},{20 + n / 4}" for n in range(n_days)),
    ]


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "prices.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_carried_prices_are_whole() -> None:
    """20 tickers, 8,313 days, ascending, positive, read-only."""
    panel = load_carried()
    assert panel.prices.shape == (8313, 20)
    assert (panel.dates[0], panel.dates[-1]) == (date(1990, 1, 2), date(2022, 12, 28))
    assert panel.tickers[:2] == ("AAPL", "AMD")
    assert np.all(panel.prices > 0)
    assert all(a < b for a, b in zip(panel.dates, panel.dates[1:], strict=False))
    with pytest.raises(ValueError, match="read-only"):
        panel.prices[0, 0] = 1.0


def test_plain_and_packed_files_give_the_same(tmp_path: Path) -> None:
    """A CSV, the same with Windows line ends, a byte-order mark or blank lines, and a gzip of it."""
    plain = load_csv(write(tmp_path, rows()))
    assert plain.tickers == ("AAA", "B.B")
    assert plain.prices[1].tolist() == [10.125, 20.25]
    text = "\n".join(rows())
    for name, data in {
        "packed.csv.gz": gzip.compress(text.encode()),
        "windows.csv": text.replace("\n", "\r\n\r\n").encode("utf-8-sig"),
    }.items():
        (tmp_path / name).write_bytes(data)
        other = load_csv(tmp_path / name)
        assert (other.dates, other.tickers) == (plain.dates, plain.tickers)
        assert other.prices.tobytes() == plain.prices.tobytes()


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (5, "2001-01-04,,20", r"line 5, column 2 \(AAA\): the price is missing"),
        (5, "2001-01-04,10,x", r"line 5, column 3 \(B.B\): 'x' is not a number"),
        (5, "2001-01-04,10,0", r"line 5, column 3 \(B.B\): '0' is not a positive"),
        (5, "2001-01-04,-1,20", r"line 5, column 2 \(AAA\): '-1' is not a positive"),
        (5, "2001-01-04,nan,20", r"line 5, column 2 \(AAA\): 'nan' is not a positive"),
        (5, "2001-01-04,10,inf", r"line 5, column 3 \(B.B\): 'inf' is not a positive"),
        (5, "2001-01-03,10,20", r"line 5, column 1: date 2001-01-03 is there twice"),
        (5, "2000-12-31,10,20", r"line 5, column 1: .* comes after 2001-01-03"),
        (5, "04/01/2001,10,20", r"line 5, column 1: '04/01/2001' is not a date"),
        (5, "2001-01-04,10", r"line 5, column 3: 2 fields where the header has 3"),
        (5, "2001-01-04,10,20,30", r"line 5, column 4: 4 fields where the header has 3"),
        (5, '2001-01-04,"10,20', r"line \d+"),
        (1, "Date,AAA", r"line 1, column 2: .* two tickers .* has 2 columns"),
        (1, "Date", r"line 1, column 1: .* has 1 column$"),
        (1, "Date,AAA,AAA", r"line 1, column 3: ticker 'AAA' is named twice"),
        (1, "Date,AAA,", r"line 1, column 3: a ticker must be"),
        (1, "Date,../x,B", r"line 1, column 2: a ticker must be"),
    ],
)
def test_malformed_lines_are_refused(tmp_path: Path, line: int, text: str, message: str) -> None:
    """Every kind of bad line is named with file, line and column."""
    lines = rows()
    lines[line - 1] = text
    path = write(tmp_path, lines)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_csv(path)
    assert str(path) in str(caught.value)


def test_files_that_are_too_short_or_no_text_are_refused(tmp_path: Path) -> None:
    """Empty, header only, too few days, binary and torn gzip files raise; a missing one is OSError."""
    with pytest.raises(InvalidInputError, match="line 600: ends after 599 days"):
        load_csv(write(tmp_path, rows(MIN_DAYS - 1)))
    with pytest.raises(InvalidInputError, match="line 1: ends after 0 days"):
        load_csv(write(tmp_path, rows(0)))
    for data, message in ((b"", "empty"), (b"\n\n", "empty"), (b"\xff\xfe\x00", "not a text file")):
        path = tmp_path / "odd.csv"
        path.write_bytes(data)
        with pytest.raises(InvalidInputError, match=message):
            load_csv(path)
    path.write_bytes(gzip.compress(b"Date,A,B\n" * 1000)[:-9])
    with pytest.raises(InvalidInputError, match="not a text file"):
        load_csv(path)
    with pytest.raises(OSError, match="missing"):
        load_csv(tmp_path / "missing.csv")


def test_a_panel_is_cut_by_days_and_tickers() -> None:
    """`until` and `only` keep prices with their dates and names; unknown tickers are refused."""
    panel = load_carried()
    part = panel.only(["MSFT", "AAPL"]).until(10)
    assert part.tickers == ("MSFT", "AAPL")
    assert part.prices[9].tolist() == [
        panel.prices[9, panel.tickers.index("MSFT")],
        panel.prices[9, 0],
    ]
    assert np.isnan(part.log_returns[0]).all()
    assert part.log_returns[1] == pytest.approx(np.log(part.prices[1] / part.prices[0]))
    with pytest.raises(InvalidInputError, match="XYZ"):
        panel.only(["XYZ"])
    with pytest.raises(InvalidInputError, match="shape"):
        Panel(panel.dates, ("A",), panel.prices)
