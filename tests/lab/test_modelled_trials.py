"""Trials in the Adreno lab: nothing runs, the model says how long it would."""

from __future__ import annotations

import pytest

from ddimcache.kernels.workload import parse
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning.lab import model_trial
from ddimcache.tuning.outcome import Request

pytestmark = pytest.mark.lab

SHAPES = ["matmul 1024x128x128 float16 int8", "conv2d 1x32x32x64x32x3x3x1x1 float16 int8"]


def trial(text: str, decisions: dict[str, int]) -> Outcome:
    return model_trial(Request(parse(text).text, "adreno-740", "lab", decisions, {}, "", 1, 0))


@pytest.mark.parametrize("text", SHAPES)
def test_a_small_tile_is_slower_by_the_model(text: str) -> None:
    same = trial(text, {})
    assert (same.status, same.ratio, same.error) == ("good", 1, None)
    assert same.message.startswith("modelled, limited by ")
    small = trial(text, {"pixels.rows": 2})
    assert small.status == "refused" or (small.ratio is not None and small.ratio > 1)


def test_what_spills_is_refused() -> None:
    found = trial("matmul 256x128x128 float16 int8", {"pixels.rows": 48})
    assert (found.status, found.seconds) == ("refused", None)
    assert found.message
