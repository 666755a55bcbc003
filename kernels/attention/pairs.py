"""Blocked attention whose products are taken in bfloat16, two to a lane and an instruction.

As ``blocked.py``, but queries, keys, weights and values are rounded to bfloat16, 8 bits of a float32, where
they are brought together; sums, maxima and exponentials stay float32. A query's number ``d`` is paired with
``d`` plus half the width, which lie in rows as vectors do, and a value with the one of the next key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.attention.blocked import BlockedLoops, in_vectors
from ddimcache.kernels.tiling import local

PAIRS = "ddimcache_pairs16"
"""OpenCL function of the runtime (``runtime/cc/device_functions.cc``): ``float16 f(float16 sums, int16 pairs,
int pair)`` adds to each sum the products of both halves of its pair with those of ``pair``."""

LANES = 16
"""Sums of a vector, where :data:`PAIRS` is called."""

_HIGH, _ROUND = -(1 << 16), 1 << 15


def pair(low: Any, high: Any) -> Any:
    """Two float32 rounded to bfloat16, as the halves of an int32."""
    first, second = (T.reinterpret("int32", each) + T.int32(_ROUND) for each in (low, high))
    return first >> T.int32(16) & T.int32(0xFFFF) | second & T.int32(_HIGH)


class PairLoops(BlockedLoops):
    """The loops of one kernel; the width is even, and so are the keys of a block."""

    instruction = False
    """Whether :data:`PAIRS` is called, else plain arithmetic gives the same but for rounding."""

    def _allocate(self) -> None:
        super()._allocate()
        self.pairs = self._operand((self.block, self.span), 0)

    def _operand(self, shape: tuple[int, ...], axis: int) -> Any:
        halved = [extent // 2 if at == axis else extent for at, extent in enumerate(shape)]
        return local(*halved, dtype="int32")

    def _keep_queries(self, read: Callable[[Any, Any], Any], part: Any) -> None:
        half = self.width // 2
        with T.serial(0, half) as d:
            self._each_vector(
                lambda at: T.buffer_store(self.query, pair(read(d, at), read(d + half, at)), [part, d, at])
            )

    def _fetch(self, k: Any, v: Any, b: Any, h: Any, base: Any) -> None:
        half, head = self.width // 2, h * self.width
        with T.serial(0, self.block) as j:
            row = T.bind(self._token(base + j))

            def key(d: Any) -> Any:
                return T.cast(k[b, row, self.places[1].first + head + d], "float32")

            in_vectors(half, lambda d: T.buffer_store(self.keys, pair(key(d), key(d + half)), [j, d]))
        with T.serial(0, self.block // 2) as j:
            rows = [T.bind(self._token(base + (2 * j + side))) for side in (0, 1)]

            def value(side: int, d: Any) -> Any:
                return T.cast(v[b, rows[side], self.places[2].first + head + d], "float32")

            in_vectors(
                self.width, lambda d: T.buffer_store(self.values, pair(value(0, d), value(1, d)), [j, d])
            )

    def _multiply_keys(self, sums: Any, part: Any, first: Any) -> None:
        with T.serial(0, self.width // 2) as d, T.unroll(0, self.key_tile) as j:
            for start in range(0, self.span, self.lanes):
                self._add(sums, j, start, lambda at: self.query[part, d, at], self.keys[first + j, d])

    def _keep_weights(self, first: Any) -> None:
        def keep(half: Any, at: Any) -> None:
            both = pair(self.score[first + half * 2, at], self.score[first + half * 2 + 1, at])
            T.buffer_store(self.pairs, both, [first // 2 + half, at])

        self._each(self.key_tile // 2, keep)

    def _multiply_values(self, sums: Any, first: Any) -> None:
        with T.serial(0, self.block // 2) as j, T.unroll(0, self.value_tile) as d:
            for start in range(0, self.span, self.lanes):
                self._add(sums, d, start, lambda at: self.pairs[j, at], self.values[j, first + d])

    def _add(self, sums: Any, row: Any, start: int, pairs: Callable[[Any], Any], one: Any) -> None:
        """Emits ``sums[row, start + lane] +=`` both products of ``pairs(start + lane)`` and ``one``."""
        if self.instruction:
            at = tirx.Ramp(start, 1, self.lanes)
            kind = f"float32x{self.lanes}"
            T.buffer_store(sums, T.call_pure_extern(kind, PAIRS, sums[row, at], pairs(at), one), [row, at])
            return
        with T.vectorized(0, self.lanes) as lane:
            at = start + lane
            value = sums[row, at]
            for take in (_low, _high):
                value = value + take(pairs(at)) * take(one)
            T.buffer_store(sums, value, [row, at])


class PairCalls(PairLoops):
    """The same by calls of :data:`PAIRS`; vectors have :data:`LANES` queries."""

    instruction = True


def _low(both: Any) -> Any:
    return T.reinterpret("float32", both << T.int32(16))


def _high(both: Any) -> Any:
    return T.reinterpret("float32", both & T.int32(_HIGH))
