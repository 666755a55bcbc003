"""Attention with a running softmax in blocks, for devices whose work-items have caches of their own.

As in ``kernel.py`` the score matrix is never stored and a vector lane is a query; here a work-item has
``parts`` x ``vectors`` vectors of queries. Both products run in tiles that stay in registers: ``keys`` x
``vectors`` scores over the head's width, then ``values`` x ``vectors`` sums over a block of keys. A scalar of
K or V is then used for several vectors, a vector of queries or weights for several keys or values, and a
block of keys and values, once it is in the nearest cache, for all parts.

Scores are powers of two. A query's peak, which they are lowered by, need not be the highest of them: it is
the highest of some block, and raised where a score is above it by more than ``SLACK``. So in most blocks sums
stay as they are, and no weight waits for the last score of its block.

Bytes: with 32 queries an item, 4096 keys of 8 heads of 40 are read 128 times, 168 MB each time; what is in a
cache line beside them doubles that. 16 parts make it 8 times.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.attention.kernel import LOWEST, MISSING, Place
from ddimcache.kernels.exponential import LOG2_E, POWER, POWER_LANES, power_of_two
from ddimcache.kernels.tags import WORK
from ddimcache.kernels.tiling import largest_divisor, local, vector_lanes

PREFETCH = "ddimcache_prefetch"
"""OpenCL function of the runtime (``runtime/cc/device_functions.cc``): ``int f(const __global void* at)`` has
the line of a cache brought near that ``at`` is in, which may be read soon."""

LINE_BYTES = 64
"""Of a cache's line; where lines are longer some are asked for twice."""

MOST_KEPT_BYTES = 1 << 20
"""Of queries and sums that a work-item has: more are not in the second cache from block to block, nor on a
thread's stack."""

SLACK = 20.0
"""By how many powers of two a score may be above its peak before that is raised. Sums of weights of 2^20 over
65536 keys are far from float32's ends, and a peak is a score, so that some weight is at least 1."""


@dataclass(frozen=True)
class AttentionBlocking:
    """What a work-item keeps: ``parts`` x ``vectors`` vectors of ``lanes`` queries, at most.

    ``block`` keys, at most, share a maximum; ``keys`` scores, and ``values`` sums, times ``vectors`` are in
    registers.
    """

    lanes: int
    vectors: int
    parts: int
    block: int
    keys: int
    values: int


def parts_of(most: int, queries: int, span: int, width: int) -> int:
    """Parts of a work-item, each of ``span`` queries of a head of ``width``.

    At most ``most``, and no more than :data:`MOST_KEPT_BYTES` allow; of those above half of that as many as
    leave the fewest behind the last query.
    """
    needed = -(-queries // span)
    most = max(min(most, needed, MOST_KEPT_BYTES // (2 * 4 * width * span)), 1)
    return min(range(most, most // 2, -1), key=lambda parts: -(-needed // parts) * parts)


@cache
def blocked_attention(
    shape_query: tuple[int, int, int, int],
    tokens: int,
    dtype: str,
    scale: float,
    blocking: AttentionBlocking,
    *,
    has_bias: bool = False,
    places: tuple[Place, Place, Place] | None = None,
    loops: type[BlockedLoops] | None = None,
    calls: bool = False,
) -> tirx.PrimFunc:
    """As :func:`ddimcache.kernels.attention.kernel.attention`, whose parameters these are, in blocks.

    ``loops`` are those of ``pairs.py`` for products in bfloat16. With ``calls`` functions of the runtime are
    called: :data:`POWER` for powers of two of vectors of :data:`POWER_LANES`, and :data:`PREFETCH`.
    """
    batch, queries, heads, width = shape_query
    places = places or (Place(heads * width, 0),) * 3
    emitter = (loops or BlockedLoops)(shape_query, tokens, scale, blocking, places, calls)
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
            emitter.emit(q, k, v, bias if has_bias else None, out, dtype)
    return builder.get().with_attr(WORK, 2 * batch * heads * queries * tokens * width)


class BlockedLoops:
    """The loops of one float32 kernel; sizes as in :class:`AttentionBlocking`."""

    def __init__(
        self,
        shape_query: tuple[int, int, int, int],
        tokens: int,
        scale: float,
        blocking: AttentionBlocking,
        places: tuple[Place, Place, Place],
        calls: bool,
    ) -> None:
        self.batch, self.queries, self.heads, self.width = shape_query
        self.tokens, self.scale, self.places = tokens, scale, places
        self.calls, self.calls_power = calls, calls and blocking.lanes == POWER_LANES
        self.lanes, self.vectors = blocking.lanes, blocking.vectors
        self.span = blocking.lanes * blocking.vectors
        self.parts = parts_of(blocking.parts, self.queries, self.span, self.width)
        self.key_tile = blocking.keys
        self.value_tile = largest_divisor(self.width, blocking.values)
        # Blocks of one size, so that as few keys as possible are behind the last.
        blocks = -(-tokens // max(blocking.block, blocking.keys))
        self.block = -(-tokens // (blocks * blocking.keys)) * blocking.keys

    def emit(self, q: Any, k: Any, v: Any, bias: Any, out: Any, dtype: str) -> None:
        """Emits the whole kernel."""
        query_blocks = -(-self.queries // (self.parts * self.span))
        with (
            T.thread_binding(0, self.batch * self.heads * query_blocks, thread="blockIdx.x") as group,
            T.thread_binding(0, 1, thread="threadIdx.x"),
        ):
            self._allocate()
            b = T.bind(group // (self.heads * query_blocks))
            h = T.bind(group // query_blocks % self.heads)
            start = T.bind(group % query_blocks * (self.parts * self.span))
            with T.serial(0, self.parts) as part:
                self._start(q, b, h, part, T.bind(start + part * self.span))
            with T.serial(0, -(-self.tokens // self.block)) as number:
                base = T.bind(number * self.block)
                self._fetch(k, v, b, h, base)
                with T.serial(0, self.parts) as part:
                    if self.calls:
                        self._prefetch(k, v, b, h, base + self.block, part)
                    self._scores(bias, part, base, T.bind(start + part * self.span))
                    self._raise_peaks(part)
                    self._weigh(part)
                    self._add_values(part)
            with T.serial(0, self.parts) as part:
                self._finish(out, b, h, part, T.bind(start + part * self.span), dtype)

    def _allocate(self) -> None:
        self.query = self._operand((self.parts, self.width, self.span), 1)
        self.total = local(self.parts, self.width, self.span)
        self.score = local(self.block, self.span)
        self.peak, self.weight = local(self.parts, self.span), local(self.parts, self.span)
        self.highest, self.above = local(self.span), local(1, dtype="int32")
        self.keys = self._operand((self.block, self.width), 1)
        self.values = self._operand((self.block, self.width), 0)

    def _operand(self, shape: tuple[int, ...], _axis: int) -> Any:
        """Memory for numbers that are multiplied and summed along an axis."""
        return local(*shape)

    def _each_vector(self, emit: Callable[[Any], None]) -> None:
        """Emits a statement for every vector of queries; it is given the query's index."""
        for vector in range(self.vectors):
            with T.vectorized(0, self.lanes) as lane:
                emit(vector * self.lanes + lane)

    def _each(self, count: int, emit: Callable[[Any, Any], None]) -> None:
        """The same for every vector of every one of ``count`` keys or values; it is given both.

        The loop is unrolled when the kernel is built: TVM's passes before that have one statement to see.
        """
        with T.unroll(0, count) as number:
            self._each_vector(partial(emit, number))

    def _query(self, at: Any) -> Any:
        """A row of queries; the last work-items repeat the last row."""
        return T.min(at, self.queries - 1) if self.queries % (self.parts * self.span) else at

    def _token(self, at: Any) -> Any:
        """A row of keys; the last block repeats the last row."""
        return T.min(at, self.tokens - 1) if self.tokens % self.block else at

    def _start(self, q: Any, b: Any, h: Any, part: Any, first: Any) -> None:
        def read(d: Any, at: Any) -> Any:
            place = (b, self._query(first + at), self.places[0].first + h * self.width + d)
            return T.cast(q[place], "float32") * T.float32(self.scale * LOG2_E)

        self._keep_queries(read, part)
        with T.serial(0, self.width) as d:
            self._each_vector(lambda at: T.buffer_store(self.total, T.float32(0), [part, d, at]))
        self._each_vector(lambda at: T.buffer_store(self.peak, T.float32(LOWEST), [part, at]))
        self._each_vector(lambda at: T.buffer_store(self.weight, T.float32(0), [part, at]))

    def _keep_queries(self, read: Callable[[Any, Any], Any], part: Any) -> None:
        """Brings queries together; ``read`` gives one number of one of them."""
        with T.serial(0, self.width) as d:
            self._each_vector(lambda at: T.buffer_store(self.query, read(d, at), [part, d, at]))

    def _fetch(self, k: Any, v: Any, b: Any, h: Any, base: Any) -> None:
        """Brings a block of keys and values together, which lie a row of the product apart: a page each."""
        with T.serial(0, self.block) as j:
            row = T.bind(self._token(base + j))
            for source, place, kept in ((k, self.places[1], self.keys), (v, self.places[2], self.values)):
                first = place.first + h * self.width

                def keep(d: Any, source: Any = source, kept: Any = kept, first: Any = first) -> None:
                    T.buffer_store(kept, T.cast(source[b, row, first + d], "float32"), [j, d])

                in_vectors(self.width, keep)

    def _prefetch(self, k: Any, v: Any, b: Any, h: Any, base: Any, part: Any) -> None:
        """Asks for a part's share of the keys and values of the next block, which begins at ``base``."""
        rows = -(-self.block // self.parts)
        with T.serial(0, rows) as j:
            row = T.bind(T.min(base + (part * rows + j), self.tokens - 1))
            for source, place in ((k, self.places[1]), (v, self.places[2])):
                step = LINE_BYTES // (tvm.DataType(source.dtype).bits // 8)
                for d in (*range(0, self.width, step), self.width - 1):
                    address = T.address_of(source[b, row, place.first + h * self.width + d])
                    T.evaluate(T.call_extern("int32", PREFETCH, address))

    def _scores(self, bias: Any, part: Any, base: Any, first: Any) -> None:
        """Scores of a block of keys, and the highest of each query."""
        tile = self.key_tile
        self._each_vector(lambda at: T.buffer_store(self.highest, self.peak[part, at], [at]))
        with T.serial(0, self.block // tile) as strip:
            sums = local(tile, self.span)
            self._each(tile, lambda j, at: T.buffer_store(sums, T.float32(0), [j, at]))
            self._multiply_keys(sums, part, strip * tile)

            def keep(j: int, at: Any) -> None:
                score = sums[j, at]
                if bias is not None:
                    more = bias[self._token(base + (strip * tile + j)), self._query(first + at)]
                    more = more * T.float32(LOG2_E)
                    score = score + T.Select(more < T.float32(LOWEST), T.float32(LOWEST), more)
                if self.tokens % self.block:
                    behind = T.max(base + (strip * tile + j) - (self.tokens - 1), 0)
                    score = score + T.float32(MISSING) * T.cast(behind, "float32")
                T.buffer_store(sums, score, [j, at])
                T.buffer_store(self.score, sums[j, at], [strip * tile + j, at])

            def maximum(at: Any) -> None:
                highest = _halved(T.max, [sums[j, at] for j in range(tile)])
                T.buffer_store(self.highest, T.max(self.highest[at], highest), [at])

            self._each(tile, keep)
            self._each_vector(maximum)

    def _multiply_keys(self, sums: Any, part: Any, first: Any) -> None:
        """Adds to ``sums`` the products of queries and the keys from ``first`` on."""
        with T.serial(0, self.width) as d:

            def add(j: int, at: Any) -> None:
                key = self.keys[first + j, d]
                T.buffer_store(sums, sums[j, at] + self.query[part, d, at] * key, [j, at])

            self._each(self.key_tile, add)

    def _raise_peaks(self, part: Any) -> None:
        """Raises the peaks of a part where a score of it is above its own by more than :data:`SLACK`."""
        T.buffer_store(self.above, 0, [0])
        with T.serial(0, self.span) as at:
            high = self.highest[at] > self.peak[part, at] + T.float32(SLACK)
            T.buffer_store(self.above, T.bitwise_or(self.above[0], T.cast(high, "int32")), [0])
        with T.If(self.above[0] != 0), T.Then():
            shrink = local(self.span)
            self._each_vector(lambda at: T.buffer_store(shrink, self.peak[part, at] - self.highest[at], [at]))
            self._each_vector(lambda at: T.buffer_store(self.peak, self.highest[at], [part, at]))
            self._each_power(shrink)
            self._each_vector(
                lambda at: T.buffer_store(self.weight, self.weight[part, at] * shrink[at], [part, at])
            )
            with T.serial(0, self.width) as d:
                self._each_vector(
                    lambda at: T.buffer_store(self.total, self.total[part, d, at] * shrink[at], [part, d, at])
                )

    def _each_power(self, buffer: Any, *row: Any) -> None:
        """Replaces every vector of a row of ``buffer`` by its powers of two."""
        for start in range(0, self.span, self.lanes):
            if self.calls_power:
                place = [*row, tirx.Ramp(start, 1, self.lanes)]
                kind = f"float32x{self.lanes}"
                T.buffer_store(buffer, T.call_pure_extern(kind, POWER, buffer[tuple(place)]), place)
                continue
            with T.vectorized(0, self.lanes) as lane:
                place = [*row, start + lane]
                T.buffer_store(buffer, power_of_two(buffer[tuple(place)]), place)

    def _weigh(self, part: Any) -> None:
        """Scores become weights: powers of two of what they are above their peaks."""
        tile = self.key_tile

        def lower(j: Any, at: Any) -> None:
            T.buffer_store(self.score, self.score[j, at] - self.peak[part, at], [j, at])

        with T.serial(0, self.block // tile) as strip:
            self._each(tile, lambda j, at: lower(strip * tile + j, at))
            with T.unroll(0, tile) as j:
                self._each_power(self.score, strip * tile + j)

            def add(at: Any) -> None:
                more = _halved(operator.add, [self.score[strip * tile + j, at] for j in range(tile)])
                T.buffer_store(self.weight, self.weight[part, at] + more, [part, at])

            self._each_vector(add)
            self._keep_weights(strip * tile)

    def _keep_weights(self, first: Any) -> None:
        """What more is done to the weights of a tile of keys from ``first`` on; nothing in float32."""

    def _add_values(self, part: Any) -> None:
        tile = self.value_tile
        with T.serial(0, self.width // tile) as strip:
            sums = local(tile, self.span)

            def start(d: int, at: Any) -> None:
                T.buffer_store(sums, self.total[part, strip * tile + d, at], [d, at])

            self._each(tile, start)
            self._multiply_values(sums, strip * tile)
            self._each(
                tile, lambda d, at: T.buffer_store(self.total, sums[d, at], [part, strip * tile + d, at])
            )

    def _multiply_values(self, sums: Any, first: Any) -> None:
        """Adds to ``sums`` the products of weights and the numbers from ``first`` on of all values."""
        with T.serial(0, self.block) as j:

            def add(d: int, at: Any) -> None:
                value = self.values[j, first + d]
                T.buffer_store(sums, sums[d, at] + self.score[j, at] * value, [d, at])

            self._each(self.value_tile, add)

    def _finish(self, out: Any, b: Any, h: Any, part: Any, first: Any, dtype: str) -> None:
        result = local(self.width, self.span)
        inverse = local(self.span)
        self._each_vector(lambda at: T.buffer_store(inverse, T.float32(1) / self.weight[part, at], [at]))
        with T.serial(0, self.width) as d:
            self._each_vector(
                lambda at: T.buffer_store(result, self.total[part, d, at] * inverse[at], [d, at])
            )
        with ExitStack() as inside:
            at = inside.enter_context(T.serial(0, self.span))
            if self.queries % (self.parts * self.span):
                inside.enter_context(T.If(first + at < self.queries))
                inside.enter_context(T.Then())
            d = inside.enter_context(T.serial(0, self.width))
            T.buffer_store(out, T.cast(result[d, at], dtype), [b, first + at, h, d])


def in_vectors(count: int, emit: Callable[[Any], None]) -> None:
    """Emits a statement for each of ``count`` numbers, given its index, in vectors as wide as divide them."""
    lanes = vector_lanes(count, 16)
    with T.serial(0, count // lanes) as vector, T.vectorized(0, lanes) as lane:
        emit(vector * lanes + lane)


def _halved(combine: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    """``values`` combined as a tree, whose halves do not wait for each other."""
    if len(values) == 1:
        return values[0]
    middle = len(values) // 2
    return combine(_halved(combine, values[:middle]), _halved(combine, values[middle:]))
