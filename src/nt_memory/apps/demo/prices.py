"""Daily closing prices: the carried file, or any CSV with a date column and one column a ticker."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CARRIED = "sp500_20_daily_close.csv.gz"
MIN_DAYS = 600
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Closes of several tickers on the same days.

    Attributes:
        dates: Trading days, strictly ascending, length n_days.
        tickers: Column names, length n_tickers, in the order of the file.
        prices: Closes, shape (n_days, n_tickers), finite and positive; read-only.
    """

    dates: tuple[date, ...]
    tickers: tuple[str, ...]
    prices: Floats

    def __post_init__(self) -> None:
        """Check that the shapes agree, and make the prices read-only."""
        if self.prices.shape != (len(self.dates), len(self.tickers)):
            raise InvalidInputError(
                f"prices of shape {self.prices.shape} for {len(self.dates)} dates "
                f"and {len(self.tickers)} tickers"
            )
        self.prices.setflags(write=False)

    @property
    def n_days(self) -> int:
        """Number of days."""
        return len(self.dates)

    @property
    def log_returns(self) -> Floats:
        """Log returns close to close, shape (n_days, n_tickers); the first row is NaN."""
        logs = np.log(self.prices)
        moves = np.full(logs.shape, np.nan)
        moves[1:] = logs[1:] - logs[:-1]
        return moves

    def until(self, n_days: int) -> Panel:
        """The first `n_days` days."""
        return Panel(self.dates[:n_days], self.tickers, self.prices[:n_days].copy())

    def only(self, tickers: Sequence[str]) -> Panel:
        """The named columns, in the order given.

        Raises:
            InvalidInputError: a ticker is not in the panel.
        """
        missing = [ticker for ticker in tickers if ticker not in self.tickers]
        if missing:
            raise InvalidInputError(f"no such ticker: {', '.join(missing)}")
        columns = [self.tickers.index(ticker) for ticker in tickers]
        return Panel(self.dates, tuple(tickers), np.ascontiguousarray(self.prices[:, columns]))


def load_carried() -> Panel:
    """The 20 large US stocks that come with the package, 1990 to 2022; see `data/NOTICE`."""
    packed = resources.files("nt_memory.apps.demo").joinpath("data", CARRIED).read_bytes()
    return _parse(packed, CARRIED)


def load_csv(path: str | os.PathLike[str]) -> Panel:
    """Read a CSV file, plain or gzipped.

    The first line names the columns: a date column, then one column a ticker. Every further line is
    one day, `YYYY-MM-DD` and one positive price a ticker, oldest first. Blank lines are skipped.

    Raises:
        InvalidInputError: the file is empty, not text, has fewer than two tickers, a missing, repeated
            or malformed column name, a line with another number of fields, a date that is malformed,
            repeated or out of order, a price that is missing, not a number, not finite or not positive,
            or fewer than 600 days. The message names the file, the line and the column.
        OSError: it cannot be read.
    """
    source = Path(path)
    return _parse(source.read_bytes(), str(source))


def _parse(packed: bytes, name: str) -> Panel:
    try:
        raw = gzip.decompress(packed) if packed.startswith(_GZIP_MAGIC) else packed
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{name}: not a text file: {error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except csv.Error as error:
        raise InvalidInputError(f"{name}, line {reader.line_num}: {error}") from None
    if not lines:
        raise InvalidInputError(f"{name}: the file is empty")
    tickers = _tickers(lines[0][1], f"{name}, line {lines[0][0]}")
    dates, rows = _days(lines[1:], tickers, name)
    if len(rows) < MIN_DAYS:
        last = lines[-1][0]
        raise InvalidInputError(
            f"{name}, line {last}: ends after {len(rows)} days; at least {MIN_DAYS} are needed"
        )
    return Panel(tuple(dates), tickers, np.array(rows, dtype=np.float64))


def _tickers(header: list[str], where: str) -> tuple[str, ...]:
    names = [field.strip() for field in header[1:]]
    if len(names) < 2:
        raise InvalidInputError(
            f"{where}, column {len(header)}: a date column and at least two tickers are needed, "
            f"this has {len(header)} column{'s' if len(header) != 1 else ''}"
        )
    for place, ticker in enumerate(names):
        column = f"{where}, column {place + 2}"
        try:
            check_agent(ticker)
        except InvalidInputError as error:
            raise InvalidInputError(f"{column}: a ticker must be a valid name: {error}") from None
        if ticker in names[:place]:
            raise InvalidInputError(f"{column}: ticker {ticker!r} is named twice")
    return tuple(names)


def _days(
    lines: Iterable[tuple[int, list[str]]], tickers: tuple[str, ...], name: str
) -> tuple[list[date], list[list[float]]]:
    dates: list[date] = []
    rows: list[list[float]] = []
    for number, fields in lines:
        where = f"{name}, line {number}"
        if len(fields) != len(tickers) + 1:
            raise InvalidInputError(
                f"{where}, column {min(len(fields), len(tickers) + 1) + 1}: "
                f"{len(fields)} fields where the header has {len(tickers) + 1}"
            )
        day = _day(fields[0], where)
        if dates and day <= dates[-1]:
            what = "is there twice" if day == dates[-1] else f"comes after {dates[-1]}"
            raise InvalidInputError(f"{where}, column 1: date {day} {what}; dates must ascend")
        dates.append(day)
        rows.append(
            [
                _price(text, f"{where}, column {place + 2} ({ticker})")
                for place, (ticker, text) in enumerate(zip(tickers, fields[1:], strict=True))
            ]
        )
    return dates, rows


def _day(text: str, where: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInputError(f"{where}, column 1: {text!r} is not a date YYYY-MM-DD") from None


def _price(text: str, where: str) -> float:
    if not text.strip():
        raise InvalidInputError(f"{where}: the price is missing")
    try:
        price = float(text)
    except ValueError:
        raise InvalidInputError(f"{where}: {text!r} is not a number") from None
    if not 0.0 < price < float("inf"):
        raise InvalidInputError(f"{where}: {text!r} is not a positive, finite price")
    return price
