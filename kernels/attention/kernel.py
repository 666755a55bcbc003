"""Attention with a running softmax, one vector lane a query.

A work-item holds a vector of queries. Scores, maxima, exponentials and sums are then plain vector
arithmetic, with no reduction across lanes; keys and values are read as scalars that all lanes share.
The score matrix is never stored: memory grows with tokens, not with their square.

For every block of ``keys`` keys (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., 2205.14135):
``m' = max(m, max s)``, ``p = exp(s - m')``, ``l = l exp(m - m') + sum p``, ``a = a exp(m - m') + p V``;
at the end ``out = a / l``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.tags import WORK
from ddimcache.kernels.tiling import largest_divisor

LOWEST = -3.0e38
"""What a maximum starts from: finite, so that a difference of two is never NaN."""

MISSING = -1.0e30
"""What is added to the score of a key behind the last one: its exponential is 0 beside any real key's."""

UNROLLED_WIDTH = 64
"""Head widths up to this one have their value loop unrolled, so that the sums stay in registers."""

VALUE_BLOCK = 16
"""Values updated together in the rolled loop of wider heads."""


@dataclass(frozen=True)
class Place:
    """Where the values of all heads of a token are: ``row`` values a token, these from ``first`` on."""

    row: int
    first: int


@cache
def attention(
    shape_query: tuple[int, int, int, int],
    tokens: int,
    dtype: str,
    scale: float,
    *,
    lanes: int,
    key_block: int,
    work_group: int,
    has_bias: bool = False,
    places: tuple[Place, Place, Place] | None = None,
) -> tirx.PrimFunc:
    """Attention over ``q`` [B, Q, H, D], ``k`` and ``v`` [B, ``tokens``, H, D], giving [B, Q, H, D].

    ``scale`` multiplies the scores, which are float32 like the sums. With ``has_bias`` a further
    input [tokens, Q] float32 is added to the scores of every batch and head. The operands come as
    [B, Q or ``tokens``, row]; ``places`` says where in a row the H x D values of each are.
    """
    batch, queries, heads, width = shape_query
    q_place, k_place, v_place = places or (Place(heads * width, 0),) * 3
    keys = largest_divisor(tokens, key_block)
    if keys * 2 < key_block:
        keys = min(key_block, tokens)
    masked = tokens % keys != 0
    blocks = -(-tokens // keys)
    query_blocks = -(-queries // lanes)
    ragged = queries % lanes != 0
    items = batch * heads * query_blocks
    group = largest_divisor(items, work_group)
    value_block = width if width <= UNROLLED_WIDTH else largest_divisor(width, VALUE_BLOCK)
    value_blocks = width // value_block
    bias_shape = (tokens, queries) if has_bias else (1, 1)

    unrolled = width <= UNROLLED_WIDTH
    macs = 2 * batch * heads * queries * tokens * width

    # fmt: off
    @T.prim_func(private=True, s_tir=True, check_well_formed=False)
    def kernel(
        q: T.Buffer((batch, queries, q_place.row), dtype),
        k: T.Buffer((batch, tokens, k_place.row), dtype),
        v: T.Buffer((batch, tokens, v_place.row), dtype),
        bias: T.Buffer(bias_shape, "float32"),
        out: T.Buffer((batch, queries, heads, width), dtype),
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            T.reads()
            T.writes()
            for block in T.thread_binding(items // group, thread="blockIdx.x"):
                for item in T.thread_binding(group, thread="threadIdx.x"):
                    query = T.alloc_buffer((width, lanes), "float32", scope="local")
                    score = T.alloc_buffer((keys, lanes), "float32", scope="local")
                    total = T.alloc_buffer((width, lanes), "float32", scope="local")
                    result = T.alloc_buffer((width, lanes), "float32", scope="local")
                    peak = T.alloc_buffer((lanes,), "float32", scope="local")
                    last = T.alloc_buffer((lanes,), "float32", scope="local")
                    weight = T.alloc_buffer((lanes,), "float32", scope="local")
                    b: T.let[T.int32] = (block * group + item) // (heads * query_blocks)
                    h: T.let[T.int32] = (block * group + item) // query_blocks % heads
                    first: T.let[T.int32] = (block * group + item) % query_blocks * lanes
                    for d in range(width):
                        for lane in T.vectorized(lanes):
                            query[d, lane] = T.Cast(
                                "float32",
                                q[b, T.min(first + lane, queries - 1), q_place.first + h * width + d],
                            ) * T.float32(scale)
                    for d in T.unroll(width) if unrolled else T.serial(width):
                        for lane in T.vectorized(lanes):
                            total[d, lane] = T.float32(0)
                    for lane in T.vectorized(lanes):
                        peak[lane] = T.float32(LOWEST)
                    for lane in T.vectorized(lanes):
                        weight[lane] = T.float32(0)
                    for key_base in range(blocks):
                        for j in T.unroll(keys):
                            for lane in T.vectorized(lanes):
                                score[j, lane] = T.float32(0)
                        for d in range(width):
                            for j in T.unroll(keys):
                                for lane in T.vectorized(lanes):
                                    score[j, lane] = score[j, lane] + query[d, lane] * T.Cast(
                                        "float32",
                                        k[
                                            b,
                                            T.min(key_base * keys + j, tokens - 1),
                                            k_place.first + h * width + d,
                                        ],
                                    )
                        for lane in T.vectorized(lanes):
                            last[lane] = peak[lane]
                        for j in T.unroll(keys):
                            if has_bias:
                                for lane in T.vectorized(lanes):
                                    score[j, lane] = score[j, lane] + bias[
                                        T.min(key_base * keys + j, tokens - 1),
                                        T.min(first + lane, queries - 1),
                                    ]
                            if masked:
                                # Arithmetic, not a choice: OpenCL's select of vectors tests the sign bit of
                                # each lane, and TVM gives it a comparison's 1.
                                for lane in T.vectorized(lanes):
                                    score[j, lane] = score[j, lane] + T.float32(MISSING) * T.Cast(
                                        "float32", T.max(key_base * keys + j - (tokens - 1), 0)
                                    )
                            for lane in T.vectorized(lanes):
                                peak[lane] = T.max(peak[lane], score[j, lane])
                        for lane in T.vectorized(lanes):
                            last[lane] = T.exp(last[lane] - peak[lane])
                        for lane in T.vectorized(lanes):
                            weight[lane] = weight[lane] * last[lane]
                        for j in T.unroll(keys):
                            for lane in T.vectorized(lanes):
                                score[j, lane] = T.exp(score[j, lane] - peak[lane])
                            for lane in T.vectorized(lanes):
                                weight[lane] = weight[lane] + score[j, lane]
                        for outer in T.unroll(value_blocks) if unrolled else T.serial(value_blocks):
                            for inner in T.unroll(value_block):
                                for lane in T.vectorized(lanes):
                                    total[outer * value_block + inner, lane] = (
                                        total[outer * value_block + inner, lane] * last[lane]
                                    )
                            for j in range(keys):
                                for inner in T.unroll(value_block):
                                    for lane in T.vectorized(lanes):
                                        total[outer * value_block + inner, lane] = total[
                                            outer * value_block + inner, lane
                                        ] + score[j, lane] * T.Cast(
                                            "float32",
                                            v[
                                                b,
                                                T.min(key_base * keys + j, tokens - 1),
                                                v_place.first
                                                + h * width
                                                + outer * value_block
                                                + inner,
                                            ],
                                        )
                    for lane in T.vectorized(lanes):
                        weight[lane] = T.float32(1) / weight[lane]
                    # Sums are only ever read as whole vectors, so that they can live in registers.
                    for d in T.unroll(width) if unrolled else T.serial(width):
                        for lane in T.vectorized(lanes):
                            result[d, lane] = total[d, lane] * weight[lane]
                    for lane in range(lanes):
                        for d in range(width):
                            if ragged:
                                if first + lane < queries:
                                    out[b, first + lane, h, d] = T.Cast(dtype, result[d, lane])
                            else:
                                out[b, first + lane, h, d] = T.Cast(dtype, result[d, lane])
    # fmt: on
    return kernel.with_attr(WORK, macs)
