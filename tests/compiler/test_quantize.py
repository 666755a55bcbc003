"""Scales of output channels and of groups of input channels: how large the groups are, and what they keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.compress.quantize import (
    dequantize,
    group_of,
    group_scale,
    is_sensitive,
    quantize,
    stored_values,
)
from tests.kit.reference import keep_groups_of_int8, round_to_int8


@pytest.mark.parametrize(
    ("shape", "most", "group"),
    [
        ((320, 320), 64, 64),
        ((320, 3, 3, 320), 128, 80),  # 128 does not divide 320
        ((1280, 768), 128, 128),
        ((320, 3, 3, 960), 128, 120),
        ((640, 60), 32, 20),
        ((640, 64), 64, 0),  # one group is a whole output channel
        ((640, 1, 1, 64), 128, 0),
        ((640, 3, 3, 64), 128, 64),  # at each of nine places
        ((640, 68), 64, 0),  # 4 of 64 would be as many scales as weights of float32
        ((640, 67), 32, 0),
        ((640, 9), 32, 0),
        ((320, 320), 0, 0),
    ],
)
def test_sizes_of_groups(shape: tuple[int, ...], most: int, group: int) -> None:
    assert group_of(shape, most) == group


@given(
    outputs=st.integers(1, 9),
    taps=st.sampled_from([(), (1, 1), (3, 3)]),
    groups=st.integers(1, 5),
    group=st.sampled_from([4, 12, 32]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_no_weight_is_off_by_more_than_half_a_step_of_its_group(
    outputs: int, taps: tuple[int, ...], groups: int, group: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weight = random.standard_normal((outputs, *taps, groups * group)).astype("float32")
    weight *= np.exp(3 * random.standard_normal(weight.shape)).astype("float32")
    weight[0, ..., :group] = 0
    scale = group_scale(weight, group)
    assert scale.shape == (outputs, *taps, groups)
    assert (scale[0, ..., 0] == 1).all()
    kept = dequantize(quantize(weight, group), scale)
    assert (np.abs(kept - weight) <= 0.5001 * np.repeat(scale, group, axis=-1)).all()
    assert not kept[0, ..., :group].any()


@pytest.mark.parametrize("kind", ["int8", "int8-g32", "int8-g64", "int8-g128", "fp16", "fp32"])
@pytest.mark.parametrize("shape", [(20, 96), (20, 67), (12, 40, 3, 3), (16, 128, 1, 1), (16, 4, 3, 3)])
def test_what_is_stored_is_what_plain_torch_rounds(shape: tuple[int, ...], kind: str) -> None:
    weight = np.random.default_rng(1).standard_normal(shape).astype("float32")
    kept, tensor = stored_values(weight, kind), torch.from_numpy(weight)
    name, _, group = kind.partition("-g")
    if name == "fp32":
        expected = tensor
    elif name == "fp16" or is_sensitive(*shape[:2]):
        expected = tensor.half().float()
    elif group:
        expected = keep_groups_of_int8(tensor, int(group))
    else:
        quantised, scale = round_to_int8(tensor)
        expected = quantised.float() * scale.reshape(-1, *[1] * (len(shape) - 1))
    np.testing.assert_array_equal(kept, expected.numpy())
