"""What the cached feature adds behind the cut is computed by the full step, or everything stays as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.lower_products import LowerProducts
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.passes.partition_at_cut import PartitionAtCut
from ddimcache.compiler.passes.serialize_conv2d import SerializeConv2d
from ddimcache.compiler.passes.split_at_cut import SplitAtCut
from ddimcache.compiler.target import profile
from tests.kit.relax_run import run_relax
from tests.passes.test_merge_projections import store


def split_at_cut(store: WeightStore, weights: str = "fp32") -> SplitAtCut:
    return SplitAtCut(store, 1, profile("opencl"), weights)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 5, 6, 8), "float32"),
        w: R.Tensor((4, 3, 3, 16), "float32"),
        v: R.Tensor((4, 1, 1, 16), "float32"),
        g: R.Tensor((16,), "float32"),
        b: R.Tensor((16,), "float32"),
    ) -> R.Tensor((1, 5, 6, 4), "float32"):
        with R.dataflow():
            skip = R.sin(x)
            inner = R.tanh(skip)
            joined = R.concat((inner, skip), axis=3)
            n = R.nn.group_norm(joined, g, b, num_groups=4, channel_axis=3, axes=[1, 2])
            a = R.nn.silu(n)
            y = R.nn.conv2d(a, w, padding=[1, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
            z = R.nn.conv2d(joined, v, data_layout="NHWC", kernel_layout="OHWI")
            out = R.add(y, z)
            R.output(out)
        return out


SHAPES = {"w": (4, 3, 3, 16), "v": (4, 1, 1, 16), "g": (16,), "b": (16,)}


def expected_cached(cached: relax.Function) -> relax.Function:
    """What ``cached`` of the module above becomes; new weights have names that no script can write."""
    x, _, *weights = cached.params
    kept = [relax.Var(f"feature_{number}", relax.TensorType((1, 5, 6, 4), "float32")) for number in (0, 1)]
    scale, shift = (relax.Var(f"{name}|8to16", relax.TensorType((8,), "float32")) for name in "gb")
    builder = relax.BlockBuilder()
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
    with builder.function("cached", [x, *kept, *weights]):
        with builder.dataflow():
            skip = builder.emit(relax.op.sin(x))
            n = relax.op.nn.group_norm(skip, scale, shift, num_groups=2, channel_axis=3, axes=[1, 2])
            a = builder.emit(relax.op.nn.silu(builder.emit(n)))
            part = builder.emit(relax.op.strided_slice(weights[0], [3], [8], [16], assume_inbound=True))
            y = builder.emit(relax.op.nn.conv2d(a, part, padding=[1, 1, 1, 1], **layouts))
            y = builder.emit(relax.op.add(y, kept[0]))
            part = builder.emit(relax.op.strided_slice(weights[1], [3], [8], [16], assume_inbound=True))
            z = builder.emit(relax.op.nn.conv2d(skip, part, **layouts))
            z = builder.emit(relax.op.add(z, kept[1]))
            out = builder.emit_output(relax.op.add(y, z))
        builder.emit_func_output(out)
    function = builder.get()["cached"]
    return relax.Function([*function.params, scale, shift], function.body, function.ret_ty, True).with_attr(
        "global_symbol", "cached"
    )


def test_a_cached_step_convolves_the_skip_connection_alone() -> None:
    parted = PartitionAtCut(0, 1)(Before)
    weights = store(**SHAPES)
    split = split_at_cut(weights)
    after = split(parted)
    tvm.ir.assert_structural_equal(after["cached"], expected_cached(parted["cached"]), map_free_vars=True)
    assert split.features == 2
    assert split.note == "2 convolutions split, of 8 channels from the feature"
    assert set(split.members.values()) == {("g",), ("b",)}
    np.testing.assert_array_equal(weights.array("g|8to16"), weights.array("g")[8:])
    full = after["full"]
    assert [str(shape) for shape in full.ret_ty.fields] == ['R.Tensor((1, 5, 6, 4), dtype="float32")'] * 3


@pytest.mark.parametrize(
    ("groups", "channels", "kind", "reason"),
    [
        (2, (8, 16), "fp32", "a group of the normalisation has channels of both sides"),
        (8, (6, 10), "fp32", "cannot be parted there"),
        (4, (48, 48), "int8-g32", "cannot be parted there"),
    ],
)
def test_what_has_channels_of_both_sides_is_left_alone(
    groups: int, channels: tuple[int, int], kind: str, reason: str
) -> None:
    module = PartitionAtCut(0, 1)(block(1, (3, 4), channels, groups, 12))
    split = split_at_cut(store(**shapes(channels, 12)), kind)
    tvm.ir.assert_structural_equal(split(module), module)
    assert reason in split.note
    assert split.features == 1


def test_a_join_that_something_else_reads_is_left_alone() -> None:
    @I.ir_module
    class Read:
        @R.function
        def main(x: R.Tensor((1, 5, 6, 8), "float32"), v: R.Tensor((4, 1, 1, 16), "float32")) -> R.Tensor(
            (1, 5, 6, 4), "float32"
        ):
            with R.dataflow():
                skip = R.sin(x)
                inner = R.tanh(skip)
                joined = R.concat((inner, skip), axis=3)
                z = R.nn.conv2d(joined, v, data_layout="NHWC", kernel_layout="OHWI")
                m = R.mean(joined, axis=[3], keepdims=True)
                out = R.add(z, m)
                R.output(out)
            return out

    module = PartitionAtCut(0, 1)(Read)
    split = split_at_cut(store(v=(4, 1, 1, 16)))
    tvm.ir.assert_structural_equal(split(module), module)
    assert split.note == "left alone, the join is read by mean"


def shapes(channels: tuple[int, int], outputs: int) -> dict[str, tuple[int, ...]]:
    both = sum(channels)
    return {
        "w": (outputs, 3, 3, both),
        "v": (outputs, 1, 1, both),
        "g": (both,),
        "b": (both,),
        "u": (channels[0], 1, 1, channels[1]),
    }


def block(
    batch: int, sides: tuple[int, int], channels: tuple[int, int], groups: int, outputs: int
) -> tvm.IRModule:
    """A UNet of one skip connection, the residual block behind it, and channels of each side as asked."""
    found = {
        name: relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in shapes(channels, outputs).items()
    }
    x = relax.Var("x", relax.TensorType((batch, *sides, channels[1]), "float32"))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *found.values()]):
        with builder.dataflow():
            inner = builder.emit(relax.op.nn.conv2d(x, found["u"], **layouts))
            joined = builder.emit(relax.op.concat([inner, x], axis=3))
            n = relax.op.nn.group_norm(joined, found["g"], found["b"], groups, 3, [1, 2])
            a = builder.emit(relax.op.nn.silu(builder.emit(n)))
            y = builder.emit(relax.op.nn.conv2d(a, found["w"], padding=[1, 1, 1, 1], **layouts))
            z = builder.emit(relax.op.nn.conv2d(joined, found["v"], **layouts))
            out = builder.emit_output(relax.op.add(y, z))
        builder.emit_func_output(out)
    return builder.get()


@given(
    batch=st.integers(1, 2),
    sides=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    parts=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    each=st.sampled_from([4, 12, 20]),
    outputs=st.integers(1, 20),
    kind=st.sampled_from(["fp32", "int8", "int8-g32"]),
    serial=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_both_functions_give_what_they_gave(
    batch: int,
    sides: tuple[int, int],
    parts: tuple[int, int],
    each: int,
    outputs: int,
    kind: str,
    serial: bool,
) -> None:
    """With a feature of other latents as well, and weights rounded as a whole, parted again or not."""
    channels = (parts[0] * each, parts[1] * each)
    values = store(**shapes(channels, outputs))
    whole = PartitionAtCut(0, 1)(block(batch, sides, channels, sum(parts), outputs))
    split = split_at_cut(values, kind)
    after = split(whole)
    random = np.random.default_rng(outputs)
    old, new = (random.standard_normal((batch, *sides, channels[1]), dtype=np.float32) for _ in range(2))
    answers = []
    for module, features in ((whole, 1), (after, split.features)):
        inputs = {"full": 1, "cached": 1 + features}
        if serial and module is after:
            most = (9 if kind != "fp32" else 36) * outputs * sum(channels) // 4
            module = SerializeConv2d(dataclasses.replace(profile("opencl"), max_allocation=most), kind)(
                module
            )
        lowered = LowerProducts(Packing(values, profile("opencl"), kind, inputs))(module)
        noise, *kept = run_relax(lowered, [old], values, "full")
        assert len(kept) == features
        answers.append((noise, *run_relax(lowered, [new, *kept], values, "cached")))
    for expected, found in zip(*answers, strict=True):
        assert np.abs(expected - found).max() <= 1e-5 * max(1.0, np.abs(expected).max())
