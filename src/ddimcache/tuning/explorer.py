"""Proposes what to try next: an evolutionary search over a space, its proposals ranked by a learned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ddimcache.compiler.target import Decisions, TileTable
from ddimcache.kernels.workload import Workload
from ddimcache.schedules.spaces import defaults, problem, space_of

POOL = 256
"""Candidates that are thought of for a batch."""

RANDOM_SHARE = 0.25
"""Of a batch, at least: what the model thinks little of is tried as well."""

ELITES = 8

Key = tuple[tuple[str, int], ...]
Rank = Callable[[Sequence[Decisions]], np.ndarray]
"""Predicted times over the default's of candidates, less being better."""


def key_of(decisions: Decisions) -> Key:
    """Decisions as something to look up."""
    return tuple(sorted(decisions.items()))


class Explorer:
    """The search for one workload. ``told`` with every result; never proposes the same twice."""

    def __init__(self, tiles: TileTable, workload: Workload, seed: int = 0) -> None:
        self.tiles, self.workload = tiles, workload
        self.space = space_of(tiles, workload)
        self.default = defaults(tiles, workload, self.space)
        self._random = np.random.default_rng(seed)
        self._tried: set[Key] = {key_of(self.default)}
        self._scores: dict[Key, float] = {key_of(self.default): 1.0}

    def knows(self, decisions: Decisions) -> bool:
        """Whether they were tried, or are no candidate."""
        return (
            key_of({**self.default, **decisions}) in self._tried
            or problem(self.tiles, self.workload, decisions) is not None
        )

    def told(self, decisions: Decisions, ratio: float | None) -> None:
        """Takes note of a trial: its time over the default's, ``None`` for one that failed."""
        key = key_of({**self.default, **decisions})
        self._tried.add(key)
        if ratio is not None:
            self._scores[key] = ratio

    def propose(self, count: int, rank: Rank | None) -> list[dict[str, int]]:
        """At most ``count`` new candidates; fewer where the space ends. ``rank`` orders those of the pool."""
        pool: dict[Key, dict[str, int]] = {}
        elites = [dict(key) for key, _ in sorted(self._scores.items(), key=lambda item: item[1])[:ELITES]]
        for turn in range(4 * POOL):
            if len(pool) >= POOL:
                break
            made = self._anything() if turn % 3 == 0 else self._child(elites)
            key = key_of(made)
            if key not in self._tried and key not in pool:
                if problem(self.tiles, self.workload, made) is None:
                    pool[key] = made
                else:
                    self._tried.add(key)
        candidates = list(pool.values())
        if rank is None or len(candidates) <= count:
            self._random.shuffle(candidates)
            return candidates[:count]
        order = [candidates[index] for index in np.argsort(rank(candidates), kind="stable")]
        lucky = round(count * RANDOM_SHARE)
        chosen = order[: count - lucky]
        rest = order[count - lucky :]
        return chosen + [rest[index] for index in self._random.permutation(len(rest))[:lucky]]

    def _anything(self) -> dict[str, int]:
        return {place: int(self._random.choice(numbers)) for place, numbers in self.space.items()}

    def _child(self, elites: Sequence[Mapping[str, int]]) -> dict[str, int]:
        """One of the best, or a mixture of two, with a decision or two changed, often to the next number."""
        first, second = (elites[int(self._random.integers(len(elites)))] for _ in range(2))
        child = {place: (first, second)[int(self._random.integers(2))][place] for place in self.space}
        changeable = [place for place, numbers in self.space.items() if len(numbers) > 1]
        for place in self._random.permutation(changeable)[: int(self._random.integers(1, 3))]:
            numbers = self.space[str(place)]
            at = numbers.index(child[str(place)])
            step = int(self._random.choice([-1, 1]))
            if self._random.random() < 0.3:
                child[str(place)] = int(self._random.choice(numbers))
            else:
                child[str(place)] = numbers[min(max(at + step, 0), len(numbers) - 1)]
        return child
