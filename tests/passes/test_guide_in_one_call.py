"""What both prompts share is computed once and doubled where they part; each half is what one call gives."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.guide_in_one_call import GuideInOneCall
from tests.kit.relax_run import run_relax


@I.ir_module
class Before:
    @R.function
    def full(
        x: R.Tensor((1, 3, 8), "float32"), c: R.Tensor((1, 5, 8), "float32"), w: R.Tensor((8, 8), "float32")
    ) -> R.Tuple(R.Tensor((1, 3, 8), "float32"), R.Tensor((1, 3, 8), "float32")):
        with R.dataflow():
            a = R.tanh(x)
            q = R.reshape(R.matmul(a, w), (1, 3, 2, 4))
            k = R.reshape(c, (1, 5, 2, 4))
            y = R.reshape(R.nn.attention(q, k, k), (1, 3, 8))
            z = R.add(a, y)
            out = R.multiply(z, R.const(2.0))
            R.output(out, a)
        return (out, a)


@I.ir_module
class Expected:
    @R.function
    def full_guided(
        x: R.Tensor((1, 3, 8), "float32"), c: R.Tensor((2, 5, 8), "float32"), w: R.Tensor((8, 8), "float32")
    ) -> R.Tuple(R.Tensor((2, 3, 8), "float32"), R.Tensor((2, 3, 8), "float32")):
        with R.dataflow():
            a = R.tanh(x)
            p = R.matmul(a, w)
            q = R.reshape(p, (1, 3, 2, 4))
            k = R.reshape(c, (2, 5, 2, 4))
            qs = R.concat((q, q), axis=0)
            v = R.nn.attention(qs, k, k)
            y = R.reshape(v, (2, 3, 8))
            both = R.concat((a, a), axis=0)
            z = R.add(both, y)
            out = R.multiply(z, R.const(2.0))
            made = (out, both)
            R.output(made)
        return made


def test_what_both_share_is_computed_once() -> None:
    module = relax.transform.Normalize()(Before)
    guide = GuideInOneCall({"full": [1]})
    after = guide(module)
    tvm.ir.assert_structural_equal(after["full"], module["full"])
    tvm.ir.assert_structural_equal(after["full_guided"], Expected["full_guided"], map_free_vars=True)
    assert guide.note == "operators that both prompts share: 3 of 8 in full"


def test_other_functions_and_what_no_prompt_changes_are_left_alone() -> None:
    @I.ir_module
    class Shared:
        @R.function
        def full(x: R.Tensor((1, 3), "float32"), c: R.Tensor((1, 5), "float32")) -> R.Tensor(
            (1, 3), "float32"
        ):
            with R.dataflow():
                y = R.tanh(x)
                R.output(y)
            return y

        @R.function
        def other(c: R.Tensor((1, 5), "float32")) -> R.Tensor((1, 5), "float32"):
            with R.dataflow():
                y = R.tanh(c)
                R.output(y)
            return y

    after = GuideInOneCall({"full": [1]})(Shared)
    assert {variable.name_hint for variable in after.get_global_vars()} == {"full", "full_guided", "other"}
    for name in ("full", "other"):
        tvm.ir.assert_structural_equal(after[name], Shared[name])
    x = np.random.default_rng(1).standard_normal((1, 3)).astype("float32")
    [both] = run_relax(after, [x, np.zeros((2, 5), "float32")], WeightStore(), "full_guided")
    np.testing.assert_allclose(both, np.tanh(np.repeat(x, 2, 0)), rtol=1e-6)


def network(batch: int, cells: int, heads: int, words: int) -> tvm.IRModule:
    """Every operator that a UNet has around a prompt, and some that mix what lies along the leading axis."""
    width = 4 * heads
    builder = relax.BlockBuilder()

    def tensor(name: str, *shape: int) -> relax.Var:
        return relax.Var(name, relax.TensorType(shape, "float32"))

    x, c = tensor("x", batch, cells, cells, width), tensor("c", batch, words, width)
    w, g, b = tensor("w", width, width), tensor("g", width), tensor("b", width)
    with builder.function("full", [x, c, w, g, b]):
        with builder.dataflow():

            def emit(expr: relax.Expr) -> relax.Var:
                return builder.emit(expr)

            layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
            h = emit(relax.op.nn.group_norm(x, g, b, num_groups=heads, channel_axis=3, axes=[1, 2]))
            h = emit(relax.op.reshape(h, [batch, cells * cells, width]))
            parts = emit(relax.op.split(emit(relax.op.matmul(c, w)), 2, axis=2))
            keys = emit(relax.op.concat([parts[0], parts[1]], axis=2))
            scores = emit(relax.op.matmul(h, emit(relax.op.permute_dims(keys, [0, 2, 1]))))
            y = emit(relax.op.matmul(emit(relax.op.nn.softmax(scores, axis=-1)), keys))
            y = emit(relax.op.nn.layer_norm(y, g, b, axes=[-1]))
            h = emit(relax.op.add(emit(relax.op.add(h, y)), b))
            h = emit(relax.op.reshape(h, [batch, cells, cells, width]))
            kernel = emit(relax.op.reshape(w, [width, 1, 1, width]))
            h = emit(relax.op.nn.conv2d(h, kernel, **layouts))
            h = emit(relax.op.concat([h, x], axis=3))
            h = emit(relax.op.image.resize2d(h, (2 * cells, 2 * cells), layout="NHWC"))
            h = emit(relax.op.strided_slice(h, [3], [1], [width + 1]))
            # A number for every one of them, as constants are once they are folded.
            shape = (batch, 2 * cells, 2 * cells, width)
            each = np.arange(np.prod(shape), dtype="float32").reshape(shape) / 100
            h = emit(relax.op.add(h, relax.const(each)))
            # A mean over pictures, which no call for both may mix.
            mean = emit(relax.op.mean(h, axis=[0], keepdims=True))
            h = emit(relax.op.subtract(h, mean))
            h = emit(relax.op.permute_dims(h, [3, 0, 1, 2]))
            h = emit(relax.op.permute_dims(h, [1, 0, 2, 3]))
            output = builder.emit_output(relax.op.nn.silu(h))
        builder.emit_func_output(output)
    return builder.get()


@given(
    batch=st.integers(1, 3), cells=st.integers(1, 4), heads=st.sampled_from([2, 4]), words=st.integers(1, 5)
)
@settings(max_examples=4, deadline=None)
def test_each_half_is_what_a_call_of_its_own_gives(batch: int, cells: int, heads: int, words: int) -> None:
    module = GuideInOneCall({"full": [1]})(network(batch, cells, heads, words))
    random, width = np.random.default_rng(3), 4 * heads
    store = WeightStore()

    def numbers(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype("float32")

    x, weights = numbers(batch, cells, cells, width), [numbers(width, width), numbers(width), numbers(width)]
    contexts = numbers(2, batch, words, width)
    [both] = run_relax(module, [x, contexts.reshape(2 * batch, words, width), *weights], store, "full_guided")
    for side in (0, 1):
        [alone] = run_relax(module, [x, contexts[side], *weights], store, "full")
        half = both[side * batch : (side + 1) * batch]
        np.testing.assert_allclose(half, alone, rtol=1e-5, atol=1e-5)
