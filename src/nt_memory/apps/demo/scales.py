"""Scales and ticks of charts: where a value lies, and which round values to name. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_STEPS = (1, 2, 3, 6, 12, 24, 36, 60, 120, 240)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to [start, end] in pixels, linearly or by logarithm.

    Values must be positive on a logarithmic scale; `low` must be below `high`.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies, in pixels; beyond the ends if it is outside."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def extent(
    values: Iterable[float], *, pad: float = 0.05, is_log: bool = False
) -> tuple[float, float]:
    """Smallest and greatest finite value with some room, never empty.

    Args:
        values: What is drawn; values that cannot be drawn are skipped.
        pad: Room on each side as a share of the span.
        is_log: Whether for a logarithmic scale.
    """
    known = [v for v in values if math.isfinite(v) and (v > 0.0 or not is_log)]
    if not known:
        return (0.1, 1.0) if is_log else (0.0, 1.0)
    low, high = min(known), max(known)
    if is_log:
        room = max((math.log(high) - math.log(low)) * pad, 0.02)
        return low * math.exp(-room), high * math.exp(room)
    room = (high - low) * pad or max(abs(high) * pad, 1e-6)
    return low - room, high + room


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most about `about`."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def log_ticks(low: float, high: float, about: int) -> list[float]:
    """Round values for a logarithmic scale: powers of ten, or finer where those are too few."""
    for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**p for p in powers for m in mantissas]
        inside = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(inside) >= max(3, about // 2):
            return inside[:: -(-len(inside) // max(about, 3))]
    return nice_ticks(low, high, about)


def tick_texts(ticks: list[float]) -> list[str]:
    """The ticks as text, all with as many decimals as the finest needs, with a true minus sign."""
    decimals = 0
    for tick in ticks:
        while decimals < 6 and abs(tick - round(tick, decimals)) > 1e-9 * max(1.0, abs(tick)):
            decimals += 1
    return [f"{tick + 0.0:,.{decimals}f}".replace("-", "−") for tick in ticks]


def date_ticks(first: date, last: date, about: int) -> list[tuple[date, str]]:
    """First days of months or years in [first, last] with their names, at most about `about`.

    A span without the first day of a month gives its own first day.
    """
    span = (last.year - first.year) * 12 + last.month - first.month
    step = next((s for s in _MONTH_STEPS if span / s <= about + 0.5), _MONTH_STEPS[-1])
    start = first.year * 12 + first.month - 1
    found: list[tuple[date, str]] = []
    for month in range(start - start % step, start + span + 1, step):
        day = date(month // 12, month % 12 + 1, 1)
        if first <= day <= last:
            found.append((day, _date_text(day, step, is_first=not found)))
    return found or [(first, first.isoformat())]


def _date_text(day: date, step: int, *, is_first: bool) -> str:
    if step >= 12:
        return str(day.year)
    name = _MONTHS[day.month - 1]
    return f"{name} {day.year}" if is_first or day.month == 1 else name
