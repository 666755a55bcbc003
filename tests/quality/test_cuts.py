"""What a cut may spend, and which is taken: by counts of multiply-accumulates and by errors."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimcache.quality.cuts import affordable_full_steps, best_cut
from ddimcache.quality.search import Found

pytestmark = pytest.mark.host


def model(full, cached):
    return SimpleNamespace(macs_full=full, macs_cached=cached)


@pytest.mark.parametrize(
    ("steps", "budget", "cached", "expected"),
    [
        (50, 10, 10, 10),  # the outermost cut itself
        (50, 10, 15, 7),  # 1400 to spend, 50 × 15 of it on what every step has: 650 / 85
        (50, 5, 19, 0),  # 950 to spend, and cached steps alone cost that
        (50, 50, 40, 50),
        (10, 2, 5, 2),  # cheaper steps buy no more full ones than were asked for
    ],
)
def test_full_steps_that_cost_the_same(steps, budget, cached, expected):
    assert affordable_full_steps(steps, budget, model(100, 10), model(100, cached)) == expected


@given(
    steps=st.integers(1, 1000),
    share=st.floats(0, 1),
    full=st.integers(1, 10**12),
    cached=st.integers(0, 10**12),
    deeper=st.integers(0, 10**12),
)
def test_never_more_is_spent(steps, share, full, cached, deeper):
    budget = max(1, round(share * steps))
    outermost, other = model(full + cached, cached), model(full + deeper, deeper)
    count = affordable_full_steps(steps, budget, outermost, other)
    assert 0 <= count <= budget

    def cost(made, number):
        return number * made.macs_full + (steps - number) * made.macs_cached

    most = cost(outermost, budget)
    assert count == 0 or cost(other, count) <= most
    if count < budget:
        assert cost(other, count + 1) > most * (1 - 1e-9)


def found(*errors):
    return [Found((0,), error, error, 1) for error in errors]


def test_the_best_cut_has_the_least_error_over_all_budgets():
    assert best_cut({0: found(4.0, 9.0), 2: found(3.0, 10.0), 1: found(1.0, 50.0)}) == 2
    assert best_cut({3: found(5.0), 1: found(5.0)}) == 1
    assert best_cut({0: found(0.0, 8.0), 1: found(0.0, 7.0)}) == 1
