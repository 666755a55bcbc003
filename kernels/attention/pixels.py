"""Attention with a running softmax whose operands are read as pixels, by teams of work-items.

A pixel is four consecutive numbers of a head. A team makes four queries of a head: as many work-items as a
head has pixels, each with one pixel of every query's result. For a block of keys, four to a work-item:

- *scores*: each work-item scores its four keys for the four queries, 64 multiply-adds on four pixels of keys
  from an image and four of queries from local memory. A few pixels are summed in float16, and their sums in
  float32;
- *weights*: powers of two of what a score is above its query's peak, and their sums, are float32. A peak is
  the maximum of some block. Only where a score of the work-group is above its peak by more than ``slack``
  do maxima go through local memory, and totals shrink as peaks are raised;
- *values*: weights go through local memory too, so that each work-item adds all keys of the block to its own
  pixel of the results: again 64 multiply-adds on four pixels of values and four of weights. A block's sum is
  float16, and joins the total: a number is added to sums of a block, and a block's sum to as many as there
  are blocks, so that the error grows with the root of either.

No score is computed twice, however wide a head is, and what is kept in local memory are 64 bytes a work-item.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.attention.kernel import LOWEST, MISSING, Place
from ddimcache.kernels.pixel_memory import counted, memory, read_back, read_pixel, synchronise
from ddimcache.kernels.tags import WORK
from ddimcache.kernels.tiling import PIXEL

QUERIES = 4
"""Queries of a team."""

MOST_ITEMS = 512
"""Work-items of a team, at most: a work-group of more leaves each too few registers."""

LOG = math.log2(math.e)
"""What makes a power of two of an exponential: scores are kept times this."""

COARSE = 64
"""What a score is divided by where it goes through float16; what that rounds away goes beside it."""

FAINT = -65000.0 * COARSE
"""The least score that a maximum is taken of."""

MOST_OF_BLOCK, MOST_SLACK = 640, 3.0
"""What the weights of a block may sum up to, where they are its size otherwise, and the most powers of two
that one may be above 1: a block's values are summed in float16."""

MOST_OF_TOTAL = 4096
"""The same of all weights: with values up to 16 totals are finite, and one part of it is a normal number."""


def can_read_pixels(width: int, places: tuple[Place, Place, Place], most_items: int) -> bool:
    """Whether heads of ``width`` numbers at ``places`` begin at whole pixels, and a team is no more than
    ``most_items`` work-items."""
    whole = all(number % PIXEL == 0 for place in places for number in (width, place.row, place.first))
    return whole and width // PIXEL <= most_items


@cache
def pixel_attention(
    shape_query: tuple[int, int, int, int],
    tokens: int,
    dtype: str,
    scale: float,
    *,
    together: int,
    work_group: int,
    image_pixels: int,
    has_bias: bool,
    places: tuple[Place, Place, Place],
) -> tirx.PrimFunc:
    """The same as ``kernel.attention``, for operands of which ``can_read_pixels`` holds.

    ``dtype`` is the type of operands and result, and of products. At most ``together`` pixels of each of four
    keys or values are read before they are multiplied, by at most ``work_group`` work-items, or one team.
    Operands of more than ``image_pixels`` pixels are read as buffers.
    """
    batch, queries, heads, width = shape_query
    emitter = _Emitter(shape_query, tokens, dtype, scale, together, work_group, image_pixels, places)
    bias_shape = (tokens, queries) if has_bias else (1, 1)
    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        counts = (queries, tokens, tokens)
        q, k, v = (
            T.arg(name, T.buffer((batch, count, place.row), dtype, layout=None))
            for name, count, place in zip("qkv", counts, places, strict=True)
        )
        bias = T.arg("bias", T.buffer(bias_shape, "float32", layout=None))
        out = T.arg("out", T.buffer((batch, queries, heads, width), dtype, layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            emitter.emit(q, k, v, bias if has_bias else None, out)
    return builder.get().with_attr(WORK, 2 * batch * heads * queries * tokens * width)


class _Emitter:
    """The loops of one kernel."""

    def __init__(
        self,
        shape_query: tuple[int, int, int, int],
        tokens: int,
        dtype: str,
        scale: float,
        together: int,
        work_group: int,
        image_pixels: int,
        places: tuple[Place, Place, Place],
    ) -> None:
        self.batch, self.queries, self.heads, self.width = shape_query
        self.tokens, self.dtype, self.scale, self.places = tokens, dtype, scale, places
        self.team = self.width // PIXEL
        """Work-items of a team, pixels of a head."""
        self.block = PIXEL * self.team
        """Keys of a block."""
        self.teams = min(max(work_group // self.team, 1), -(-self.queries // QUERIES))
        self.together = min(together, self.team)
        self.whole = self.team // self.together * self.together
        self.image_pixels = image_pixels
        self.blocks = -(-tokens // self.block)
        self.short = tokens < self.block
        self.slack = min(max(math.log2(MOST_OF_BLOCK / self.block), 0.0), MOST_SLACK)
        """By how many powers of two a weight may be above 1 before its peak is raised."""
        least = math.log2(MOST_OF_TOTAL / tokens) - self.slack
        self.lowered = 2.0 ** min(math.floor(least), 0)
        """What totals and sums of weights are multiplied with, so that float16 has them."""

    def emit(self, q: Any, k: Any, v: Any, bias: Any, out: Any) -> None:
        """Emits the whole kernel."""
        with (
            T.thread_binding(0, -(-self.queries // (QUERIES * self.teams)), thread="blockIdx.x") as block,
            T.thread_binding(0, self.heads, thread="blockIdx.y") as self.head,
            T.thread_binding(0, self.batch, thread="blockIdx.z") as self.b,
            T.thread_binding(0, self.teams * self.team, thread="threadIdx.x") as item,
        ):
            self.member, team = item % self.team, item // self.team
            self.first = (block * self.teams + team) * QUERIES
            self.own = team * (QUERIES * self.team)
            shared = (self.teams * QUERIES * self.team * PIXEL,)
            self.asked, self.passed = (memory("shared", self.dtype, *shared) for _ in range(2))
            self.above = memory("shared", "int32", 2)
            self.total = memory("local", self.dtype, QUERIES, PIXEL)
            self.peak, self.weight = (memory("local", "float32", QUERIES) for _ in range(2))
            self.shrink = memory("local", "float32", QUERIES)
            self.score = memory("local", "float32", QUERIES, PIXEL)
            self.places_of_keys = memory("local", "int32", PIXEL)
            _, self.nought = read_back(item, self.teams * self.team, self.passed)
            self._put_above(item, 0)
            if self.teams * self.team == 1:
                self._put_above(1, 0)
            self._bring_queries(q)
            for query in range(QUERIES):
                T.buffer_store(self.peak, T.float32(LOWEST), [query])
                T.buffer_store(self.weight, T.float32(0), [query])
                self._vector(self.total, lambda lane: T.cast(0, self.dtype), query)
            with T.serial(0, self.blocks) as number:
                self._score(k, number)
                self._weigh(bias, number)
                self._add_values(v, number)
            self._store(out)

    def _vector(self, target: Any, value: Any, *at: Any) -> None:
        with T.vectorized(0, PIXEL) as lane:
            T.buffer_store(target, value(lane), [*at, lane])

    def _put(self, target: Any, slot: Any, value: Any) -> None:
        with T.vectorized(0, PIXEL) as lane:
            T.buffer_store(target, value(lane), [slot * PIXEL + lane])

    def _query(self, number: int) -> Any:
        """A query of the team, the last one repeated behind the end."""
        return T.min(self.first + number, self.queries - 1)

    def _origin(self, which: int, tokens: int) -> Any:
        """Where the head of the first token begins, in pixels."""
        place = self.places[which]
        return self.b * (tokens * place.row // PIXEL) + place.first // PIXEL + self.head * self.team

    def _bring_queries(self, q: Any) -> None:
        held = memory("local", self.dtype, QUERIES * PIXEL)
        origin = self._origin(0, self.queries) + self.member
        scale = T.cast(T.float32(self.scale), self.dtype)
        for query in range(QUERIES):
            place = origin + self._query(query) * (self.places[0].row // PIXEL)
            read_pixel(held, query, q, place, self.image_pixels)
        for query in range(QUERIES):
            slot = self.own + query * self.team + self._apart(self.member)
            self._put(self.asked, slot, lambda lane, query=query: held[query * PIXEL + lane] * scale)
        synchronise()

    def _apart(self, pixel: Any) -> Any:
        """The place of a pixel in local memory: what is read together lies apart, so that a driver's compiler
        does not load several pixels at once and take registers for them."""
        apart = pixel % self.together * (self.team // self.together) + pixel // self.together
        return apart if self.whole == self.team else T.Select(pixel < self.whole, apart, pixel)

    def _in_steps(self, emit: Callable[[Callable[[int], Any], int], None]) -> None:
        """Emits a loop over all pixels of a team, some together, and what is left behind it.

        ``emit(slot, count)`` emits a step of ``count`` pixels, that lie in local memory at ``slot`` of them.
        """
        steps = self.team // self.together
        with counted(self.nought, steps) as step:
            emit(lambda pixel: pixel * steps + step, self.together)
        if self.whole < self.team:
            emit(lambda pixel: self.whole + pixel, self.team - self.whole)

    def _begin(self, number: Any) -> Any:
        """The first token of a block. The last block begins earlier where tokens end within it, so that none
        is missing: what it has of the one before has no weight. A lone block repeats the last token."""
        if self.tokens % self.block == 0 or self.short:
            return number * self.block
        return T.min(number * self.block, self.tokens - self.block)

    def _key(self, number: Any, key: Any) -> Any:
        """The number of a token in a block."""
        token = self._begin(number) + key
        return T.min(token, self.tokens - 1) if self.short else token

    def _score(self, k: Any, number: Any) -> None:
        row = self.places[1].row // PIXEL
        for key in range(PIXEL):
            token = self._key(number, self.member * PIXEL + key)
            T.buffer_store(self.places_of_keys, self._origin(1, self.tokens) + token * row, [key])
        sums = memory("local", self.dtype, QUERIES, PIXEL)
        for query in range(QUERIES):
            for key in range(PIXEL):
                T.buffer_store(self.score, T.float32(0), [query, key])
                T.buffer_store(sums, T.cast(0, self.dtype), [query, key])

        def step(slot: Callable[[int], Any], count: int) -> None:
            held = memory("local", self.dtype, count * PIXEL * PIXEL)
            asked = memory("local", self.dtype, PIXEL)
            for pixel in range(count):
                for key in range(PIXEL):
                    place = self.places_of_keys[key] + pixel
                    read_pixel(held, pixel * PIXEL + key, k, place, self.image_pixels)
            for pixel in range(count):
                for query in range(QUERIES):
                    at = self.own + query * self.team + slot(pixel)
                    self._vector(asked, lambda lane, at=at: self.asked[at * PIXEL + lane])
                    for lane in range(PIXEL):
                        for key in range(PIXEL):
                            product = asked[lane] * held[(pixel * PIXEL + key) * PIXEL + lane]
                            T.buffer_store(sums, sums[query, key] + product, [query, key])
            for key in range(PIXEL):
                T.buffer_store(self.places_of_keys, self.places_of_keys[key] + count, [key])
            self._join_scores(sums)

        self._in_steps(step)

    def _join_scores(self, sums: Any) -> None:
        for query in range(QUERIES):
            for key in range(PIXEL):
                value = self.score[query, key] + T.cast(sums[query, key], "float32") * T.float32(LOG)
                T.buffer_store(self.score, value, [query, key])
                T.buffer_store(sums, T.cast(0, self.dtype), [query, key])

    def _weigh(self, bias: Any, number: Any) -> None:
        """Makes weights of scores, and leaves them in local memory."""
        if bias is not None:
            for query in range(QUERIES):
                for key in range(PIXEL):
                    token = self._key(number, self.member * PIXEL + key)
                    value = self.score[query, key] + bias[token, self._query(query)] * T.float32(LOG)
                    T.buffer_store(self.score, T.max(value, T.float32(FAINT)), [query, key])
        if self.tokens % self.block:
            with T.If(number == self.blocks - 1), T.Then():
                self._leave_out()
        self._raise_peaks(number)
        for query in range(QUERIES):
            for key in range(PIXEL):
                self._power(self.score, self.score[query, key] - self.peak[query], query, key)
                T.buffer_store(self.weight, self.weight[query] + self.score[query, key], [query])
        for query in range(QUERIES):
            slot = self.own + query * self.team + self._apart(self.member)
            self._put(
                self.passed, slot, lambda lane, query=query: T.cast(self.score[query, lane], self.dtype)
            )
        synchronise()
        self._put_above(number, 0)

    def _leave_out(self) -> None:
        """Takes what the last block repeats of other tokens out of the scores."""
        repeated = self.blocks * self.block - self.tokens
        for key in range(PIXEL):
            own = self.member * PIXEL + key
            # By how many tokens it is among the repeated ones, the first or the last of the block.
            inside = own - (self.block - 1 - repeated) if self.short else repeated - own
            missing = T.float32(MISSING) * T.cast(T.max(inside, 0), "float32")
            for query in range(QUERIES):
                T.buffer_store(self.score, self.score[query, key] + missing, [query, key])

    def _put_above(self, number: Any, value: int) -> None:
        """Says for block ``number`` whether scores are above their peaks: 1, or 0 for nothing said.

        Blocks take turns with two places. One is cleared when all have read it, which a barrier later all
        have seen, and the one after that it is asked again.
        """
        T.buffer_store(self.above, value, [T.bitwise_and(number, 1)])

    def _raise_peaks(self, number: Any) -> None:
        """Raises the peaks of a group, where a score of it is above its own by more than ``slack``.

        Peaks are maxima of some block: while no weight is above 2^slack they need not be those of all.
        """
        highest = memory("local", "float32", QUERIES)
        for query in range(QUERIES):
            value = self.score[query, 0]
            for key in range(1, PIXEL):
                value = T.max(value, self.score[query, key])
            T.buffer_store(highest, value - self.peak[query], [query])
        over = T.max(T.max(highest[0], highest[1]), T.max(highest[2], highest[3]))
        with T.If(over > T.float32(self.slack)), T.Then():
            self._put_above(number, 1)
        synchronise()  # All have said so, and have read the weights of the block before.
        times = memory("local", "int32", 1)
        T.buffer_store(times, self.above[T.bitwise_and(number, 1)], [0])
        with T.serial(0, times[0]):
            for query in range(QUERIES):
                T.buffer_store(self.shrink, self.peak[query], [query])
            self._share_maxima()
            for query in range(QUERIES):
                self._power(self.shrink, self.shrink[query] - self.peak[query], query)
                T.buffer_store(self.weight, self.weight[query] * self.shrink[query], [query])
                shrink = T.cast(self.shrink[query], self.dtype)
                self._vector(
                    self.total,
                    lambda lane, query=query, shrink=shrink: self.total[query, lane] * shrink,
                    query,
                )
            synchronise()

    def _share_maxima(self) -> None:
        """Raises the peaks by the scores of all of the team; each query is one work-item's to look through.

        A maximum that is wrong by 16, as float16 has those above 32768, makes weights of up to e^16: what
        goes through local memory is a number's ``COARSE`` part, and beside it what that rounds away.
        """
        for query in range(QUERIES):
            value = T.float32(FAINT)
            for key in range(PIXEL):
                value = T.max(value, self.score[query, key])
            self._pass(value, (self.own + self.member * 2) * PIXEL + query)
        synchronise()
        found = (self.own + self.team * 2) * PIXEL
        for first in range(0, QUERIES, self.team):
            # Several may have the same query, and store the same: TVM takes no barriers below a condition.
            query = (first + self.member) % QUERIES
            highest = memory("local", "float32", 1)
            T.buffer_store(highest, T.float32(FAINT), [0])
            with counted(self.nought, self.team) as other:
                value = self._passed((self.own + other * 2) * PIXEL + query)
                T.buffer_store(highest, T.max(highest[0], value), [0])
            self._pass(highest[0], found + query)
        synchronise()
        for query in range(QUERIES):
            T.buffer_store(self.peak, T.max(self.peak[query], self._passed(found + query)), [query])

    def _pass(self, value: Any, place: Any) -> None:
        """Stores float32 ``value`` in two numbers of local memory, a pixel apart."""
        coarse = memory("local", self.dtype, 1)
        T.buffer_store(coarse, T.cast(value * T.float32(1 / COARSE), self.dtype), [0])
        T.buffer_store(self.passed, coarse[0], [place])
        rest = value - T.cast(coarse[0], "float32") * T.float32(COARSE)
        T.buffer_store(self.passed, T.cast(rest, self.dtype), [place + PIXEL])

    def _passed(self, place: Any) -> Any:
        coarse, rest = (T.cast(self.passed[place + part * PIXEL], "float32") for part in range(2))
        return coarse * T.float32(COARSE) + rest

    def _power(self, target: Any, value: Any, *at: Any) -> None:
        T.buffer_store(target, tirx.call_pure_extern("float32", "native_exp2", value), list(at))

    def _add_values(self, v: Any, number: Any) -> None:
        some = memory("local", self.dtype, QUERIES, PIXEL)
        for query in range(QUERIES):
            self._vector(some, lambda lane: T.cast(0, self.dtype), query)
        row, place = self.places[2].row // PIXEL, memory("local", "int32", 1)
        origin = self._origin(2, self.tokens) + self.member
        last = origin + (self.tokens - 1) * row
        T.buffer_store(place, origin + self._begin(number) * row, [0])

        def step(slot: Callable[[int], Any], count: int) -> None:
            held = memory("local", self.dtype, count * PIXEL * PIXEL)
            share = memory("local", self.dtype, PIXEL)
            for key in range(count * PIXEL):
                where = place[0] + key * row
                where = T.min(where, last) if self.short else where
                read_pixel(held, key, v, where, self.image_pixels)
            for pixel in range(count):
                for query in range(QUERIES):
                    at = self.own + query * self.team + slot(pixel)
                    self._vector(share, lambda lane, at=at: self.passed[at * PIXEL + lane])
                    for key in range(PIXEL):
                        with T.vectorized(0, PIXEL) as lane:
                            product = share[key] * held[(pixel * PIXEL + key) * PIXEL + lane]
                            T.buffer_store(some, some[query, lane] + product, [query, lane])
            T.buffer_store(place, place[0] + count * PIXEL * row, [0])

        self._in_steps(step)
        lowered = T.cast(T.float32(self.lowered), self.dtype)
        for query in range(QUERIES):
            self._vector(
                self.total,
                lambda lane, query=query: self.total[query, lane] + some[query, lane] * lowered,
                query,
            )

    def _store(self, out: Any) -> None:
        """Adds the sums of weights up over the team, and stores the results."""
        synchronise()
        part = memory("local", self.dtype, PIXEL)
        for query in range(QUERIES):
            lowered = self.weight[query] * T.float32(self.lowered)
            T.buffer_store(part, T.cast(lowered, self.dtype), [query])
            T.buffer_store(self.weight, T.float32(0), [query])
        self._put(self.passed, self.own + self.member, lambda lane: part[lane])
        synchronise()
        with counted(self.nought, self.team) as other:
            self._vector(part, lambda lane: self.passed[(self.own + other) * PIXEL + lane])
            for query in range(QUERIES):
                value = self.weight[query] + T.cast(part[query], "float32")
                T.buffer_store(self.weight, value, [query])
        for query in range(QUERIES):
            with T.If(self.first + query < self.queries), T.Then():
                share = T.cast(T.float32(1) / self.weight[query], self.dtype)
                with T.vectorized(0, PIXEL) as lane:
                    place = [self.b, self._query(query), self.head, self.member * PIXEL + lane]
                    T.buffer_store(out, self.total[query, lane] * share, place)
