"""What depends on timestep or context alone is computed by functions of its own, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.passes.hoist_invariants import HoistInvariants, Invariant
from ddimcache.compiler.passes.simplify import op_name
from tests.kit.relax_run import run_relax
from tests.passes.test_merge_projections import store

ROWS = 4
INVARIANTS = (
    Invariant(1, "embed_time", "times", rows=ROWS),
    Invariant(2, "project_context", "keys_values"),
)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 6, 4), "float32"),
        timestep: R.Tensor((1,), "float32"),
        context: R.Tensor((1, 5, 3), "float32"),
        wt: R.Tensor((1, 4), "float32"),
        wk: R.Tensor((3, 4), "float32"),
        wv: R.Tensor((3, 4), "float32"),
    ) -> R.Tensor((1, 6, 2, 2), "float32"):
        with R.dataflow():
            t = R.reshape(timestep, (1, 1))
            e = R.matmul(t, wt)
            s = R.nn.silu(e)
            p = R.reshape(s, (1, 1, 4))
            y = R.add(x, p)
            q = R.reshape(y, (1, 6, 2, 2))
            k = R.matmul(context, wk)
            ks = R.reshape(k, (1, 5, 2, 2))
            v = R.matmul(context, wv)
            vs = R.reshape(v, (1, 5, 2, 2))
            out = R.nn.attention(q, ks, vs, scale=0.5)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def embed_time(timesteps: R.Tensor((4,), "float32"), wt: R.Tensor((1, 4), "float32")) -> R.Tensor(
        (4, 4), "float32"
    ):
        with R.dataflow():
            t = R.reshape(timesteps, (4, 1))
            e = R.matmul(t, wt)
            s = R.nn.silu(e)
            R.output(s)
        return s

    @R.function
    def project_context(
        context: R.Tensor((1, 5, 3), "float32"),
        wk: R.Tensor((3, 4), "float32"),
        wv: R.Tensor((3, 4), "float32"),
    ) -> R.Tensor((1, 5, 8), "float32"):
        with R.dataflow():
            k = R.matmul(context, wk)
            v = R.matmul(context, wv)
            packed = R.concat((k, v), axis=-1)
            R.output(packed)
        return packed

    @R.function
    def main(
        x: R.Tensor((1, 6, 4), "float32"),
        times: R.Tensor((1, 4), "float32"),
        keys_values: R.Tensor((1, 5, 8), "float32"),
        wt: R.Tensor((1, 4), "float32"),
        wk: R.Tensor((3, 4), "float32"),
        wv: R.Tensor((3, 4), "float32"),
    ) -> R.Tensor((1, 6, 2, 2), "float32"):
        with R.dataflow():
            s = R.strided_slice(times, [1], [0], [4], assume_inbound=True)
            p = R.reshape(s, (1, 1, 4))
            y = R.add(x, p)
            q = R.reshape(y, (1, 6, 2, 2))
            k = R.strided_slice(keys_values, [2], [0], [4], assume_inbound=True)
            ks = R.reshape(k, (1, 5, 2, 2))
            v = R.strided_slice(keys_values, [2], [4], [8], assume_inbound=True)
            vs = R.reshape(v, (1, 5, 2, 2))
            out = R.nn.attention(q, ks, vs, scale=0.5)
            R.output(out)
        return out


def test_timestep_and_context_get_functions_of_their_own() -> None:
    hoist = HoistInvariants(3, INVARIANTS)
    module = hoist(Before)
    assert hoist.made == ["embed_time", "project_context"]
    for name in ("main", *hoist.made):
        tvm.ir.assert_structural_equal(module[name], Expected[name], map_free_vars=True)


def read_beside_the_latents(builder: relax.BlockBuilder, x: relax.Var, timestep: relax.Var) -> relax.Expr:
    return relax.op.multiply(x, timestep)


def mixes_rows(builder: relax.BlockBuilder, x: relax.Var, timestep: relax.Var) -> relax.Expr:
    column = builder.emit(relax.op.reshape(timestep, [1, 1]))
    return relax.op.add(x, builder.emit(relax.op.nn.softmax(column, axis=0)))


def adds_rows(builder: relax.BlockBuilder, x: relax.Var, timestep: relax.Var) -> relax.Expr:
    column = builder.emit(relax.op.reshape(timestep, [1, 1]))
    return relax.op.add(x, builder.emit(relax.op.sum(column, axis=[0], keepdims=True)))


def other_ranks(builder: relax.BlockBuilder, x: relax.Var, timestep: relax.Var) -> relax.Expr:
    column = builder.emit(relax.op.exp(builder.emit(relax.op.reshape(timestep, [1, 1]))))
    number = builder.emit(relax.op.exp(timestep))
    return relax.op.add(builder.emit(relax.op.add(x, column)), number)


def reads_nothing(builder: relax.BlockBuilder, x: relax.Var, timestep: relax.Var) -> relax.Expr:
    return relax.op.exp(x)


@pytest.mark.parametrize(
    "compute", [read_beside_the_latents, mixes_rows, adds_rows, other_ranks, reads_nothing]
)
def test_leaves_alone(compute: Callable[..., relax.Expr]) -> None:
    """What cannot be computed row by row, does not lie side by side, or is not there."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 4), "float32"))
    timestep = relax.Var("timestep", relax.TensorType((1,), "float32"))
    with builder.function("main", [x, timestep]):
        with builder.dataflow():
            output = builder.emit_output(builder.normalize(compute(builder, x, timestep)))
        builder.emit_func_output(output)
    before = builder.get()
    hoist = HoistInvariants(2, INVARIANTS[:1])
    tvm.ir.assert_structural_equal(hoist(before), before, map_free_vars=True)
    assert hoist.made == []


@given(
    batch=st.integers(1, 3),
    width=st.integers(1, 3),
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    pixels=st.integers(1, 4),
    tokens=st.integers(1, 4),
    depth=st.integers(1, 4),
)
@settings(max_examples=8, deadline=None)
def test_every_row_gives_what_its_timestep_gave(
    batch: int, width: int, channels: list[int], pixels: int, tokens: int, depth: int
) -> None:
    """A sinusoidal embedding repeated for the batch, a linear layer for each block; keys from the context."""
    shapes = {"w": (2 * width, 3), "b": (3,)}
    shapes |= {f"wt{i}": (3, count) for i, count in enumerate(channels)}
    shapes |= {f"wk{i}": (depth, count) for i, count in enumerate(channels)}
    weights = {name: relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()}
    total = sum(channels)
    x = relax.Var("x", relax.TensorType((batch, pixels, total), "float32"))
    timestep = relax.Var("timestep", relax.TensorType((1,), "float32"))
    context = relax.Var("context", relax.TensorType((batch, tokens, depth), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, timestep, context, *weights.values()]):
        with builder.dataflow():
            emit = builder.emit
            repeated = emit(relax.op.reshape(emit(relax.op.broadcast_to(timestep, [batch])), [batch, 1]))
            frequencies = relax.const(np.linspace(0.5, 2, width, dtype="float32").reshape(1, width))
            phase = emit(relax.op.multiply(repeated, frequencies))
            waves = emit(relax.op.concat([emit(relax.op.cos(phase)), emit(relax.op.sin(phase))], axis=-1))
            turned = emit(relax.op.strided_slice(waves, [1], [0], [2 * width], assume_inbound=True))
            linear = emit(relax.op.add(emit(relax.op.matmul(turned, weights["w"])), weights["b"]))
            active = emit(relax.op.nn.silu(linear))
            parts = []
            for number, count in enumerate(channels):
                row = emit(relax.op.matmul(active, weights[f"wt{number}"]))
                keys = emit(relax.op.matmul(context, weights[f"wk{number}"]))
                words = emit(relax.op.sum(keys, axis=[1], keepdims=True))
                parts.append(emit(relax.op.add(emit(relax.op.reshape(row, [batch, 1, count])), words)))
            side = emit(relax.op.concat(parts, axis=-1)) if len(parts) > 1 else parts[0]
            output = builder.emit_output(builder.normalize(relax.op.add(x, side)))
        builder.emit_func_output(output)
    before = builder.get()
    hoist = HoistInvariants(3, INVARIANTS)
    after = hoist(before)
    # The sum over words depends on the context alone and is hoisted with its product.
    assert hoist.made == ["embed_time", "project_context"]
    assert "relax.matmul" not in [
        op_name(binding.value) for block in after["main"].body.blocks for binding in block.bindings
    ]
    random = np.random.default_rng(total)
    values = store(**shapes)
    pictures = random.standard_normal((batch, pixels, total), dtype=np.float32)
    words = random.standard_normal((batch, tokens, depth), dtype=np.float32)
    timesteps = random.uniform(0, 5, ROWS).astype("float32")
    [times] = run_relax(after, [timesteps], values, "embed_time")
    [keys_values] = run_relax(after, [words], values, "project_context")
    assert times.shape == (ROWS, total)
    for row in (0, ROWS - 1):
        [expected] = run_relax(before, [pictures, timesteps[row : row + 1], words], values)
        [found] = run_relax(after, [pictures, times[row : row + 1], keys_values], values)
        assert np.abs(expected - found).max() <= 1e-5 * max(1.0, np.abs(expected).max())
