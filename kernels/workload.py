"""What a kernel computes, whatever is fused behind it: the name under which decisions about it are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddimcache.kernels.tags import DECISIONS, WORKLOAD

NO_WEIGHTS = "none"
"""The weights' dtype of a family that has none."""

SIZES = {
    "matmul": ("rows", "depth", "channels"),
    "geglu": ("rows", "depth", "channels"),
    "conv2d": (
        "batch",
        "height",
        "width",
        "depth",
        "channels",
        "kernel height",
        "kernel width",
        "row stride",
        "column stride",
    ),
    "attention": ("batch", "queries", "tokens", "heads", "head width"),
}
"""The families, with the meaning of their sizes. Height and width are those of the result; a gated linear
layer's channels are values and gates together."""

DTYPES = ("float32", "float16", "int8", "bfloat16")
WEIGHTS = ("float32", "float16", "int8")
MOST_NUMBERS = 2**31 - 1
"""Of an operand or a result: kernels count them in int32."""

_TEXT = re.compile(r"([a-z0-9_]+) (\d{1,10}(?:x\d{1,10}){2,8}) ([a-z]+\d+) ([a-z]+\d*(?:g\d{1,4})?)")


@dataclass(frozen=True)
class Workload:
    """A family with its sizes, the dtype in which its activations are multiplied and that of its weights.

    Activations of int8 and bfloat16 are float32 that the kernel rounds (``kernels/matmul/dots.py``,
    ``kernels/attention/pairs.py``). ``int8g64`` are
    weights of which groups of 64 input channels share a scale.
    """

    family: str
    sizes: tuple[int, ...]
    dtype: str
    weights: str = NO_WEIGHTS

    @property
    def shape(self) -> str:
        """The sizes as ``4096x320x320``."""
        return "x".join(map(str, self.sizes))

    @property
    def text(self) -> str:
        """``matmul 4096x320x320 float32 int8``; :func:`parse` reads it."""
        return f"{self.family} {self.shape} {self.dtype} {self.weights}"

    @property
    def rounded(self) -> bool:
        """Whether its weights are int8."""
        return self.weights.startswith("int8")

    @property
    def group(self) -> int:
        """Input channels that share a scale, 0 for weights without groups."""
        return int(self.weights.partition("g")[2] or 0)

    @property
    def stored(self) -> str:
        """The dtype of what it reads and gives."""
        return "float32" if self.dtype in ("int8", "bfloat16") else self.dtype

    @property
    def macs(self) -> int:
        """Multiply-accumulates by the definition of the operator."""
        if self.family == "attention":
            batch, queries, tokens, heads, width = self.sizes
            return 2 * batch * queries * tokens * heads * width
        total = 1
        for size in self.sizes[:7]:
            total *= size
        return total

    def problem(self) -> str | None:
        """What is wrong with it, or ``None``."""
        names = SIZES.get(self.family)
        if names is None:
            return f"family {self.family!r} is none of: {', '.join(SIZES)}"
        if len(self.sizes) != len(names) or min(self.sizes) < 1:
            return f"{self.family} has sizes {', '.join(names)}, not {self.shape}"
        if self.dtype not in DTYPES:
            return f"dtype {self.dtype!r} is none of: {', '.join(DTYPES)}"
        if (reason := self._weights_problem()) is not None:
            return reason
        if self.dtype == "int8":
            products = self.family in ("matmul", "geglu") and self.rounded
            if not products or self.sizes[1] % 4 or self.sizes[2] % 16:
                return (
                    "activations of int8 belong to a matmul or geglu with weights of int8, a depth of fours "
                    "and channels of sixteens"
                )
        if self.dtype == "bfloat16" and (self.family != "attention" or self.sizes[4] % 2):
            return "products in bfloat16 belong to attention with heads of an even width"
        return None

    def _weights_problem(self) -> str | None:
        if self.family == "attention":
            return None if self.weights == NO_WEIGHTS else f"attention has no weights: write {NO_WEIGHTS}"
        kind, grouped, group = self.weights.partition("g")
        if kind not in WEIGHTS or (grouped and kind != "int8"):
            return f"weights {self.weights!r} are none of: {', '.join(WEIGHTS)}, or int8g64 for groups of 64"
        depth = self.sizes[3 if self.family == "conv2d" else 1]
        if self.family == "geglu" and self.sizes[2] % 2:
            return f"channels are values and gates together, and {self.sizes[2]} is odd"
        if grouped and (not group.isdecimal() or not int(group) or depth % int(group)):
            return f"groups of {group} do not share a depth of {depth}"
        return None

    def too_large(self) -> str | None:
        """Why it cannot be computed by itself, or ``None``; a compilation may cut it into bands first."""
        if self.family == "attention":
            batch, queries, tokens, heads, width = self.sizes
            tensors = [batch * queries * heads * width, batch * tokens * heads * width]
        elif self.family == "conv2d":
            batch, height, width, depth, channels, high, across, down, right = self.sizes
            tensors = [batch * (height * down + high) * (width * right + across) * depth]
            tensors += [channels * high * across * depth, batch * height * width * channels]
        else:
            rows, depth, channels = self.sizes
            tensors = [rows * depth, depth * channels, rows * channels]
        if max(tensors) > MOST_NUMBERS:
            return f"has a tensor of {max(tensors)} numbers, at most {MOST_NUMBERS} can be counted"
        return None


def parse(text: str) -> Workload:
    """The workload of a text; raises :class:`ValueError` that says what is wrong with it."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no workload such as 'matmul 4096x320x320 float32 int8'")
    workload = Workload(found[1], tuple(map(int, found[2].split("x"))), found[3], found[4])
    if (problem := workload.problem()) is not None:
        raise ValueError(problem)
    return workload


def tagged(function: Any, workload: Workload, decisions: Mapping[str, int] | None) -> Any:
    """The kernel ``function`` with its workload, and the decisions of its tuning record where it has one."""
    attributes = {WORKLOAD: workload.text}
    if decisions is not None:
        attributes[DECISIONS] = json.dumps(dict(decisions), sort_keys=True)
    return function.with_attrs(attributes)
