"""The schedules of the cache: which steps are full."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimcache.errors import UsageError
from ddimcache.runtime.refresh import every, full_count, quadratic, uniform

pytestmark = pytest.mark.host


def test_every_and_uniform():
    assert every(10, 3) == (0, 3, 6, 9)
    assert every(5, 9) == (0,)
    assert full_count(10, 3) == 4
    assert uniform(10, 4) == (0, 2, 5, 7)
    assert uniform(50, 10) == every(50, 5)


def test_quadratic_is_densest_at_its_centre():
    steps = quadratic(50, 10, centre=0.3)
    distances = {after: after - before for before, after in itertools.pairwise(steps)}
    nearest = min(distances, key=lambda step: abs(step - 15))
    assert distances[nearest] == min(distances.values())
    assert distances[max(distances)] > 2 * distances[nearest]


@given(
    st.integers(1, 120).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(1, steps))),
    st.floats(0, 1),
    st.floats(1, 3),
)
def test_a_schedule_has_the_steps_that_it_may_spend(numbers, centre, power):
    steps, count = numbers
    for schedule in (uniform(steps, count), quadratic(steps, count, centre, power)):
        assert len(schedule) == count
        assert schedule[0] == 0
        assert schedule[-1] < steps
        assert list(schedule) == sorted(set(schedule))


@pytest.mark.parametrize("count", [0, 11])
def test_a_count_that_cannot_be_is_refused(count):
    for schedule in (uniform, quadratic):
        with pytest.raises(UsageError, match=r"full steps: .* is outside 1 … 10"):
            schedule(10, count)
