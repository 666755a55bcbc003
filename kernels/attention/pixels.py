"""Attention with a running softmax whose operands are read as pixels, one query a work-item.

A pixel is four consecutive numbers of a head, read through the texture path. All work-items of a wave read
the same keys and values, so that these come out of the cache. For every block of keys:

- *scores*: a loop over the pixels of a head, one of the query and one of each key at a time, in float16;
- *weights*: maximum, exponentials and their sum, in float32;
- *values*: the block's sum in float16, which then joins the total, scaled as the maximum has grown. A number
  is thus added to sums of a block, and a block's sum to as many as there are blocks: the error grows with
  the root of either, not of all keys.

A work-item keeps ``value_part`` numbers of its result. A wider head is shared among work-items, each of which
computes the scores again: that costs less than registers that do not fit.
"""

from __future__ import annotations

from functools import cache

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.attention.kernel import LOWEST, MISSING, Place
from ddimcache.kernels.tags import PIXELS, WORK
from ddimcache.kernels.tiling import PIXEL, largest_divisor


def can_read_pixels(width: int, places: tuple[Place, Place, Place]) -> bool:
    """Whether heads of ``width`` numbers at ``places`` begin at whole pixels."""
    return all(number % PIXEL == 0 for place in places for number in (width, place.row, place.first))


@cache
def pixel_attention(
    shape_query: tuple[int, int, int, int],
    tokens: int,
    dtype: str,
    scale: float,
    *,
    value_part: int,
    key_block: int,
    work_group: int,
    has_bias: bool,
    places: tuple[Place, Place, Place],
) -> tirx.PrimFunc:
    """The same as ``kernel.attention``, for operands of which ``can_read_pixels`` holds.

    ``dtype`` is the type of operands and result, and of products; ``key_block`` keys are scored at a time.
    """
    batch, queries, heads, width = shape_query
    q_place, k_place, v_place = places
    keys = largest_divisor(tokens, key_block)
    if keys * 2 < key_block:
        keys = min(key_block, tokens)
    masked = tokens % keys != 0
    blocks = -(-tokens // keys)
    part = PIXEL * largest_divisor(width // PIXEL, value_part // PIXEL)
    parts = width // part
    pixels = part // PIXEL
    group = min(work_group, queries)
    groups = -(-queries // group)
    ragged = queries % group != 0
    bias_shape = (tokens, queries) if has_bias else (1, 1)
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
            for b in T.thread_binding(batch, thread="blockIdx.z"):
                for head in T.thread_binding(heads * parts, thread="blockIdx.y"):
                    for block in T.thread_binding(groups, thread="blockIdx.x"):
                        for item in T.thread_binding(group, thread="threadIdx.x"):
                            asked = T.alloc_buffer((PIXEL,), dtype, scope="local")
                            read = T.alloc_buffer((PIXEL,), dtype, scope="local")
                            product = T.alloc_buffer((keys, PIXEL), dtype, scope="local")
                            score = T.alloc_buffer((keys,), "float32", scope="local")
                            share = T.alloc_buffer((keys,), dtype, scope="local")
                            some = T.alloc_buffer((pixels, PIXEL), dtype, scope="local")
                            total = T.alloc_buffer((pixels, PIXEL), dtype, scope="local")
                            state = T.alloc_buffer((3,), "float32", scope="local")
                            shrink = T.alloc_buffer((1,), dtype, scope="local")
                            query: T.let[T.int32] = T.min(block * group + item, queries - 1)
                            # state: maximum, sum of weights, maximum before
                            state[0] = T.float32(LOWEST)
                            state[1] = T.float32(0)
                            for c in T.unroll(pixels):
                                for lane in T.vectorized(PIXEL):
                                    total[c, lane] = T.Cast(dtype, 0)
                            for key_base in range(blocks):
                                for j in T.unroll(keys):
                                    for lane in T.vectorized(PIXEL):
                                        product[j, lane] = T.Cast(dtype, 0)
                                for d in range(width // PIXEL):
                                    for lane in T.vectorized(PIXEL):
                                        asked[lane] = q[
                                            b, query, q_place.first + head // parts * width + d * PIXEL + lane
                                        ]
                                    for lane in T.vectorized(PIXEL):
                                        asked[lane] = asked[lane] * T.Cast(dtype, T.float32(scale))
                                    for j in T.unroll(keys):
                                        for lane in T.vectorized(PIXEL):
                                            read[lane] = k[
                                                b,
                                                T.min(key_base * keys + j, tokens - 1)
                                                if masked
                                                else key_base * keys + j,
                                                k_place.first + head // parts * width + d * PIXEL + lane,
                                            ]
                                        for lane in T.vectorized(PIXEL):
                                            product[j, lane] = product[j, lane] + asked[lane] * read[lane]
                                state[2] = state[0]
                                for j in T.unroll(keys):
                                    score[j] = T.Cast("float32", product[j, 0] + product[j, 1]) + T.Cast(
                                        "float32", product[j, 2] + product[j, 3]
                                    )
                                    if has_bias:
                                        score[j] = score[j] + bias[
                                            T.min(key_base * keys + j, tokens - 1), query
                                        ]
                                    if masked:
                                        score[j] = score[j] + T.float32(MISSING) * T.Cast(
                                            "float32", T.max(key_base * keys + j - (tokens - 1), 0)
                                        )
                                    state[0] = T.max(state[0], score[j])
                                state[2] = T.call_pure_extern("float32", "native_exp", state[2] - state[0])
                                shrink[0] = T.Cast(dtype, state[2])
                                state[1] = state[1] * state[2]
                                for j in T.unroll(keys):
                                    score[j] = T.call_pure_extern(
                                        "float32", "native_exp", score[j] - state[0]
                                    )
                                    state[1] = state[1] + score[j]
                                    share[j] = T.Cast(dtype, score[j])
                                for c in T.unroll(pixels):
                                    for lane in T.vectorized(PIXEL):
                                        some[c, lane] = T.Cast(dtype, 0)
                                    for j in T.unroll(keys):
                                        for lane in T.vectorized(PIXEL):
                                            read[lane] = v[
                                                b,
                                                T.min(key_base * keys + j, tokens - 1)
                                                if masked
                                                else key_base * keys + j,
                                                v_place.first
                                                + head // parts * width
                                                + head % parts * part
                                                + c * PIXEL
                                                + lane,
                                            ]
                                        for lane in T.vectorized(PIXEL):
                                            some[c, lane] = some[c, lane] + share[j] * read[lane]
                                    for lane in T.vectorized(PIXEL):
                                        total[c, lane] = total[c, lane] * shrink[0] + some[c, lane]
                            shrink[0] = T.Cast(dtype, T.float32(1) / state[1])
                            first: T.let[T.int32] = head % parts * part
                            for c in T.unroll(pixels):
                                if ragged:
                                    if block * group + item < queries:
                                        for lane in T.vectorized(PIXEL):
                                            out[b, query, head // parts, first + c * PIXEL + lane] = (
                                                total[c, lane] * shrink[0]
                                            )
                                else:
                                    for lane in T.vectorized(PIXEL):
                                        out[b, query, head // parts, first + c * PIXEL + lane] = (
                                            total[c, lane] * shrink[0]
                                        )
    # fmt: on
    return kernel.with_attr(WORK, macs).with_attr(PIXELS, "attention")
