"""What the figures of `bench coordination` are made of."""

from __future__ import annotations

import pytest

from nt_memory.apps.bench.coordinating import Line, jain
from nt_memory.apps.bench.coordination import CoordinationOptions, middle, works_of
from nt_memory.apps.bench.coordinators import COORDINATORS, PEERS
from nt_memory.errors import InvalidInputError


def test_first_come_first_served_overtakes_nobody() -> None:
    """In the order of asking the most overtakings are none."""
    line = Line()
    places = [line.ask() for _ in range(5)]
    for place in places:
        line.granted(place)
    assert line.most_overtaken == 0


def test_overtaking_is_counted_by_who_is_overtaken() -> None:
    """Three who came later and got it earlier overtook the first three times, the second twice."""
    line = Line()
    first, second, third, fourth = (line.ask() for _ in range(4))
    line.granted(third)
    line.granted(fourth)
    fifth = line.ask()
    line.granted(second)
    assert line.most_overtaken == 3
    line.granted(fifth)
    assert line.most_overtaken == 4
    line.granted(first)
    assert line.most_overtaken == 4


def test_jain_is_one_for_equal_shares_and_one_nth_for_all_to_one() -> None:
    """The two ends, half between two of four, and nothing at all."""
    assert jain([7, 7, 7, 7]) == 1.0
    assert jain([9, 0, 0, 0]) == 0.25
    assert jain([5, 5, 0, 0]) == 0.5
    assert jain([0, 0]) == 0.0


def test_the_middle_of_rounds_is_taken_figure_by_figure() -> None:
    """Figures of one round may come from it, and the failure of one round is not forgotten."""
    rounds = [
        {"messages": {"1": {"p50": 3.0, "p99": 9.0}}, "failure": "", "server": "s 1"},
        {"messages": {"1": {"p50": 1.0, "p99": 7.0}}, "failure": "killed", "server": "s 1"},
        {"messages": {"1": {"p50": 2.0, "p99": 8.0}, "10": {"p50": 5.0}}, "failure": ""},
    ]
    assert middle(rounds) == {
        "messages": {"1": {"p50": 2.0, "p99": 8.0}, "10": {"p50": 5.0}},
        "failure": "killed",
        "server": "s 1",
    }
    assert middle([]) == {}


def test_everybody_is_measured_at_what_they_have() -> None:
    """Nobody is left out, and nobody is asked for what it does not do."""
    works = {who: list(works_of(who)) for who in COORDINATORS}
    assert works == {
        "nt-memory": ["messages", "threads", "locks", "proposals"],
        "nt-memory relaxed": ["locks", "proposals"],
        "asyncio": ["messages", "locks"],
        "queue": ["threads"],
        "anyio": ["messages", "locks"],
        "aiologic": ["messages", "threads", "locks"],
        "blinker": ["messages"],
        "redis": ["messages", "threads", "locks"],
        "nats": ["messages"],
    }
    assert all(COORDINATORS[who].about.lacks for who in PEERS)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"peers": ("oracle",)}, "no such peer: oracle"),
        ({"receivers": ()}, "--receivers"),
        ({"receivers": (1, 0)}, "--receivers"),
        ({"voters": (10_001,)}, "--voters"),
        ({"contenders": 1}, "--contenders"),
        ({"seconds": 0.0}, "--seconds"),
        ({"seconds": float("nan")}, "--seconds"),
        ({"repeats": 0}, "--repeats"),
        ({"budget_s": 0.0}, "--budget"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, object], word: str) -> None:
    """By an error that names the option."""
    with pytest.raises(InvalidInputError, match=word):
        CoordinationOptions(**given)  # type: ignore[arg-type]
