"""The learned model of cost: gradient-boosted trees over decisions and sizes, one a family.

What it predicts is a candidate's time over the default's of the same workload, as a logarithm, so that what
was seen of one shape helps with the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddimcache.compiler.target import Decisions
from ddimcache.errors import UsageError
from ddimcache.kernels.workload import SIZES, Workload

FAILED_RATIO = 4.0
"""What a candidate that fails counts as, so that the model keeps away from its like."""

LEAST_SAMPLES = 12
_PARAMETERS = {
    "max_depth": 5,
    "eta": 0.15,
    "min_child_weight": 1.0,
    "subsample": 0.9,
    "objective": "reg:squarederror",
    "nthread": 1,
    "verbosity": 0,
    "seed": 0,
}
_ROUNDS = 80


def check_installed() -> None:
    """Raises :class:`UsageError` where XGBoost is missing."""
    try:
        import xgboost  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"XGBoost cannot be used: {error}", where="tune", remedy="pip install 'ddimcache[tune]'"
        ) from error


class CostModel:
    """Learns from the trials of a family; predictions are worth nothing before :attr:`ready`."""

    def __init__(self, family: str) -> None:
        self.family = family
        self._samples: list[tuple[Workload, dict[str, int], float]] = []
        self._places: list[str] = []
        self._booster: Any = None

    @property
    def ready(self) -> bool:
        """Whether it has seen enough."""
        return len(self._samples) >= LEAST_SAMPLES

    def add(self, workload: Workload, decisions: Decisions, ratio: float | None) -> None:
        """A trial with all decisions; ``ratio`` is its time over the default's, ``None`` for a failure."""
        value = math.log(min(max(ratio, 1e-3), FAILED_RATIO) if ratio is not None else FAILED_RATIO)
        self._samples.append((workload, dict(decisions), value))
        self._booster = None

    def predict(self, workload: Workload, candidates: Sequence[Decisions]) -> np.ndarray:
        """Predicted logarithms of the times of ``candidates`` over the default's."""
        import xgboost

        if self._booster is None:
            self._places = sorted({place for _, decisions, _ in self._samples for place in decisions})
            rows = np.array([self._features(where, decisions) for where, decisions, _ in self._samples])
            data = xgboost.DMatrix(rows, label=np.array([value for *_, value in self._samples]))
            self._booster = xgboost.train(_PARAMETERS, data, _ROUNDS)
        rows = np.array([self._features(workload, decisions) for decisions in candidates])
        return self._booster.predict(xgboost.DMatrix(rows))

    def _features(self, workload: Workload, decisions: Decisions) -> list[float]:
        """Logarithms of all numbers, what is not decided missing, and how decisions go into the sizes."""
        sizes = [math.log2(size) for size in workload.sizes]
        chosen = [
            math.log2(decisions[place] + 1) if place in decisions else math.nan for place in self._places
        ]
        waste = [
            -(-size // decisions[place]) * decisions[place] / size if decisions.get(place) else math.nan
            for place in self._places
            for size in workload.sizes[: len(SIZES[self.family])][:3]
        ]
        return [*sizes, *chosen, *waste, sum(value for value in chosen if not math.isnan(value))]
