"""What the gate says of figures."""

from types import SimpleNamespace

import pytest

from ddimcache.errors import DdimcacheError, UsageError
from ddimcache.quality.gate import Costs, Gate, check, check_can_judge

pytestmark = pytest.mark.host


def row(psnr, uncached, accuracy):
    return {"psnr_to_uncompressed": psnr, "psnr_to_uncached": uncached, "accuracy": accuracy}


COSTS = Costs(row(None, None, 0.97), row(27.0, None, 0.96), row(26.0, 38.0, 0.91))


def test_good_enough():
    check(COSTS, Gate(26.0, 0.91, 50, 5), "int8")
    check(COSTS, Gate(None, None, 50, 5), "int8")
    check(Costs(*[row(None, None, 1.0)] * 3), Gate(90.0, 1.0, 50, 1), "fp32")


def test_what_costs_how_much():
    with pytest.raises(DdimcacheError) as caught:
        check(COSTS, Gate(30.0, None, 50, 5), "int8")
    assert str(caught.value) == (
        "--min-psnr: the pictures have 26.0 dB to those of the uncompressed model, below 30: int8 weights "
        "alone leave 27.0 dB, a cache interval of 5 at 50 steps alone 38.0 dB; take --weights fp16 or fp32; "
        "no bundle was written"
    )
    cache_costs_more = Costs(COSTS.uncompressed, row(40.0, None, 0.96), row(20.0, 21.0, 0.91))
    with pytest.raises(DdimcacheError, match="take a smaller --cache-interval; no bundle was written"):
        check(cache_costs_more, Gate(30.0, None, 50, 5), "int8")
    with pytest.raises(DdimcacheError) as caught:
        check(COSTS, Gate(None, 0.95, 50, 5), "int8")
    assert (
        "--min-accuracy: the pictures have 91.0% of what was asked right, below 95.0%: the uncompressed "
        "model has 97.0%, with int8 weights 96.0%, and a cache interval of 5 at 50 steps makes that 91.0%"
        in str(caught.value)
    )


def test_what_cannot_be_judged_is_told():
    def bundle(size):
        return SimpleNamespace(manifest=SimpleNamespace(image_size=size))

    with pytest.raises(UsageError, match="--min-accuracy: pictures of this model cannot be judged"):
        check_can_judge(Gate(None, 0.5, 50, 5), bundle((512, 512)))
    check_can_judge(Gate(20.0, None, 50, 5), bundle((512, 512)))
    check_can_judge(Gate(None, 0.5, 50, 5), bundle((128, 128)))
