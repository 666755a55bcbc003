"""Random functions of sums and joins, whose tensors have many sizes and live long and short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from hypothesis import strategies as st
from tvm import relax

Step = tuple[bool, int, int]
"""Whether two tensors that were made before are joined in place of added, and which two."""

VALUE = np.array([0.5, -1.0, 2.0], "float32")
"""What every function is given."""

_MOST = 300


def steps(least: int = 2, most: int = 12) -> st.SearchStrategy[list[Step]]:
    """So many steps; :func:`sums_and_joins` makes a function of them."""
    step = st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9))
    return st.lists(step, min_size=least, max_size=most)


def sums_and_joins(functions: Mapping[str, Sequence[Step]]) -> tuple[tvm.IRModule, dict[str, np.ndarray]]:
    """A module with a function of ``VALUE`` for each list of steps, and what numpy makes of them.

    Tensors of different sizes are joined, whatever the step says, and nothing grows above 300 numbers.
    """
    builder, results = relax.BlockBuilder(), {}
    for name, taken in functions.items():
        x = relax.Var("x", relax.TensorType(list(VALUE.shape), "float32"))
        made = [(x, VALUE)]
        with builder.function(name, [x]):
            with builder.dataflow():
                for join, first, second in taken:
                    (one, left), (other, right) = made[first % len(made)], made[second % len(made)]
                    if not join and left.shape == right.shape:
                        made.append((builder.emit(relax.op.add(one, other)), left + right))
                    elif left.size + right.size <= _MOST:
                        joined = builder.emit(relax.op.concat([one, other], 0))
                        made.append((joined, np.concatenate([left, right])))
                out = builder.emit_output(relax.op.negative(made[-1][0]))
            builder.emit_func_output(out)
        results[name] = -made[-1][1]
    return builder.get(), results
