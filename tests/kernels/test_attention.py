"""Attention against numpy: tokens that divide nothing, wide heads, masks, and scores that would overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.target import profile
from ddimcache.kernels.attention.blocked import (
    MOST_KEPT_BYTES,
    AttentionBlocking,
    blocked_attention,
    parts_of,
)
from ddimcache.kernels.attention.kernel import Place, attention
from ddimcache.kernels.attention.pairs import PairCalls, PairLoops
from ddimcache.kernels.attention.reference import attention as plain_attention
from ddimcache.kernels.exponential import LOG2_E
from tests.kit.kernel_run import run_kernel

KINDS = ("vector", "blocked", "pairs")
"""A vector of queries a work-item, several in blocks, and these with products in bfloat16."""

TOLERANCES = {"vector": 1e-5, "blocked": 1e-5, "pairs": 5e-3}
"""Shares of the largest number, operands rounded as the kernel does; bfloat16 has 8 bits for weights too."""


def bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Float32 rounded to bfloat16, halves away from zero."""
    rounded = (numbers.astype(np.float32).view(np.uint32) + 0x8000) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def exact_of(
    kind: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, bias: np.ndarray | None
) -> np.ndarray:
    """The reference's answer for the operands that a kernel of ``kind`` multiplies."""
    if kind == "pairs":
        # Scores are powers of two.
        rounded = bfloat16(q * np.float32(scale * LOG2_E))
        return plain_attention(rounded, bfloat16(k), bfloat16(v), 1 / LOG2_E, bias)
    return plain_attention(q, k, v, scale, bias)


BLOCKING = AttentionBlocking(lanes=16, vectors=2, parts=3, block=24, keys=4, values=10)


def kernel(
    kind: str,
    shape: tuple[int, int, int, int],
    tokens: int,
    scale: float,
    *,
    has_bias: bool = False,
    places: tuple[Place, Place, Place] | None = None,
    target: str = "llvm",
) -> Any:
    """The kernel of one of :data:`KINDS`."""
    if kind != "vector":
        loops = None if kind == "blocked" else PairCalls if target == "opencl" else PairLoops
        return blocked_attention(
            shape,
            tokens,
            "float32",
            scale,
            BLOCKING,
            has_bias=has_bias,
            places=places,
            loops=loops,
            calls=target == "opencl",
        )
    return attention(
        shape,
        tokens,
        "float32",
        scale,
        lanes=16,
        key_block=16,
        work_group=1,
        has_bias=has_bias,
        places=places,
    )


def run(
    kind: str,
    queries: int,
    tokens: int,
    heads: int,
    width: int,
    bias: bool = False,
    gain: float = 1.0,
    target: str = "llvm",
) -> None:
    random = np.random.default_rng(3)
    q, k, v = (
        (random.standard_normal((2, count, heads, width)) * gain).astype("float32")
        for count in (queries, tokens, tokens)
    )
    extra = np.where(random.random((tokens, queries)) < 0.3, -1e30, 0).astype("float32")
    extra[0] = 0  # every query sees a key
    scale = width**-0.5
    function = kernel(kind, (2, queries, heads, width), tokens, scale, has_bias=bias, target=target)
    rows = [array.reshape(2, -1, heads * width) for array in (q, k, v)]
    arrays = [*rows, extra if bias else np.zeros((1, 1), "float32")]
    out = run_kernel(function, arrays, q.shape, target=target)
    exact = exact_of(kind, q, k, v, scale, extra if bias else None)
    assert np.abs(out - exact).max() <= TOLERANCES[kind] * np.abs(exact).max()


@given(
    kind=st.sampled_from(KINDS),
    queries=st.integers(1, 110),
    tokens=st.integers(1, 90),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 4, 8, 13, 40, 64, 80, 160]),
    bias=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_attention_of_any_shape(
    kind: str, queries: int, tokens: int, heads: int, width: int, bias: bool
) -> None:
    run(kind, queries, tokens, heads, width + width % 2 if kind == "pairs" else width, bias)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_beyond_the_exponential_do_not_overflow(kind: str) -> None:
    run(kind, 16, 33, 1, 8, gain=30.0)


ON_BOTH = ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)]


def check_scores(kind: str, scores: np.ndarray, target: str, bias: np.ndarray | None = None) -> None:
    """Attention of one query repeated, whose scores with the keys are these, against the reference."""
    random = np.random.default_rng(5)
    tokens, queries, width = len(scores), 33, 8
    q, k = np.zeros((1, queries, 1, width), "float32"), np.zeros((1, tokens, 1, width), "float32")
    q[..., 0], k[0, :, 0, 0] = 1, bfloat16(scores) if kind == "pairs" else scores
    v = random.standard_normal((1, tokens, 1, width)).astype("float32")
    function = kernel(kind, (1, queries, 1, width), tokens, 1.0, has_bias=bias is not None, target=target)
    rows = [array.reshape(1, -1, width) for array in (q, k, v)]
    more = np.zeros((1, 1), "float32") if bias is None else bias
    out = run_kernel(function, [*rows, more], q.shape, target=target)
    exact = exact_of(kind, q, k, v, 1.0, bias)
    assert np.abs(out - exact).max() <= TOLERANCES[kind] * np.abs(exact).max()


@pytest.mark.parametrize("target", ON_BOTH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0.2, -0.2, 0.8, 30.0, -30.0])
def test_scores_that_rise_or_fall_from_key_to_key(kind: str, target: str, step: float) -> None:
    """By less than a block's peak may be exceeded and by more, and over all keys by more than 2^127."""
    check_scores(kind, (np.arange(140) * step).astype("float32"), target)


@pytest.mark.parametrize("target", ON_BOTH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", [-1e30, float(np.finfo(np.float32).min), -np.inf])
def test_keys_that_are_masked_at_the_beginning_have_no_weight(kind: str, target: str, absent: float) -> None:
    bias = np.zeros((140, 33), "float32")
    bias[:100, 1::2] = absent
    bias[120:, ::3] = absent
    scores = np.random.default_rng(6).standard_normal(140).astype("float32")
    check_scores(kind, scores, target, bias)


@pytest.mark.parametrize("target", ON_BOTH)
def test_a_query_whose_keys_are_all_masked_has_the_mean_of_the_values(target: str) -> None:
    check_scores("blocked", np.zeros(140, "float32"), target, np.full((140, 33), -1e30, "float32"))


@pytest.mark.parametrize("target", ON_BOTH)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e9, 1e30, -1e30])
def test_scores_of_any_size(kind: str, target: str, size: float) -> None:
    """The highest of them far above the others, in the middle of a block."""
    scores = np.full(140, -size, "float32")
    scores[77] = size
    check_scores(kind, scores, target)


@given(
    most=st.integers(1, 40), queries=st.integers(1, 5000), span=st.integers(1, 64), width=st.integers(1, 600)
)
def test_parts_of_a_work_item_fit_and_waste_little(most: int, queries: int, span: int, width: int) -> None:
    parts = parts_of(most, queries, span, width)
    assert 1 <= parts <= most
    assert parts == 1 or 8 * parts * span * width <= MOST_KEPT_BYTES
    needed = -(-queries // span)
    fit = min(most, needed, max(MOST_KEPT_BYTES // (8 * span * width), 1))
    assert parts > fit // 2
    assert -(-needed // parts) * parts <= -(-needed // fit) * fit


@pytest.mark.parametrize("kind", KINDS)
def test_operands_are_read_inside_wider_rows(kind: str) -> None:
    random = np.random.default_rng(7)
    rows = random.standard_normal((1, 11, 3 * 16 + 5)).astype("float32")
    places = (Place(53, 32), Place(53, 0), Place(53, 19))
    function = kernel(kind, (1, 11, 2, 8), 11, 0.4, places=places)
    out = run_kernel(function, [rows, rows, rows, np.zeros((1, 1), "float32")], (1, 11, 2, 8))
    q, k, v = (rows[:, :, place.first : place.first + 16].reshape(1, 11, 2, 8) for place in places)
    exact = exact_of(kind, q, k, v, 0.4, None)
    assert np.abs(out - exact).max() <= TOLERANCES[kind] * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("queries", "tokens", "heads", "width", "bias"),
    [
        (77, 77, 2, 16, True),
        (64, 77, 2, 40, False),
        (5, 97, 1, 512, False),
        (8, 17, 1, 12, False),
        (9, 31, 2, 40, True),
        (256, 256, 1, 13, False),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_on_opencl(
    kind: str, queries: int, tokens: int, heads: int, width: int, bias: bool
) -> None:
    run(kind, queries, tokens, heads, width + width % 2 if kind == "pairs" else width, bias, target="opencl")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_spoils_its_own_answer_only(kind: str, bad: float) -> None:
    random = np.random.default_rng(8)
    q, k, v = (random.standard_normal((1, 37, 8)).astype("float32") for _ in range(3))
    q[0, 20, 3] = bad
    function = kernel(kind, (1, 37, 1, 8), 37, 0.4)
    out = run_kernel(function, [q, k, v, np.zeros((1, 1), "float32")], (1, 37, 1, 8))
    spoilt = ~np.isfinite(out).all(axis=(0, 2, 3))
    assert spoilt[20]
    assert spoilt.sum() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_with_tokens_and_not_with_their_square(kind: str) -> None:
    text = kernel(kind, (1, 4096, 8, 40), 4096, 0.1).script()
    local = [line for line in text.splitlines() if "alloc" in line]
    assert local
    assert not any("4096" in line for line in local)


def test_private_memory_fits_a_stack() -> None:
    """The widest head there is, a decoder's; a thread of glibc may have no more than 2 MiB."""
    tiles = profile("opencl").tiles
    table = tiles.attention
    assert table is not None
    blocking = AttentionBlocking(
        tiles.attention_queries, table.vectors, table.parts, table.block, table.keys, table.values
    )
    function = blocked_attention((1, 4096, 1, 512), 4096, "float32", 0.1, blocking)
    shapes = [buffer.ty.shape for buffer in function.body.block.alloc_buffers]
    assert 1 << 18 < sum(4 * math.prod(map(int, shape)) for shape in shapes) < 3 << 19
