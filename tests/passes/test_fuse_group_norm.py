"""GroupNorm takes in the SiLU and the border behind it, and nothing that is read elsewhere too."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.fuse_group_norm import FuseGroupNorm
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.target import DeviceProfile, NormTable, profile
from ddimcache.kernels.group_norm.fused import NormBlocking, fused_group_norm
from ddimcache.kernels.group_norm.normalisation import Normalisation
from ddimcache.kernels.group_norm.reference import group_norm
from tests.kit.kernel_run import small_tiles
from tests.kit.relax_run import run_relax

PROFILE = profile("llvm")


def calls(module: tvm.IRModule) -> list[str]:
    """Kernels and operators of ``main``; kernels of one family differ by a number behind their names."""
    names = []
    for binding in bindings_of(module["main"]):
        name = op_name(binding.value)
        if name == "relax.call_tir":
            names.append(binding.value.args[0].name_hint.rstrip("0123456789"))
        elif name:
            names.append(name.removeprefix("relax."))
    return names


def test_activation_and_border_join_the_norm() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 4, 6, 32), "float32"),
            w: R.Tensor((32,), "float32"),
            b: R.Tensor((32,), "float32"),
        ) -> R.Tensor((1, 6, 8, 32), "float32"):
            with R.dataflow():
                g = R.nn.group_norm(x, w, b, num_groups=2, channel_axis=3, axes=[1, 2], epsilon=1e-5)
                a = R.nn.silu(g)
                p = R.nn.pad(a, [0, 0, 1, 1, 1, 1, 0, 0])
                R.output(p)
            return p

    norm = Normalisation(1, 4, 6, 32, 2, 1e-5, "float32", True, (1, 1, 1, 1))
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1, 4, 6, 32], "float32"))
    w, b = (relax.Var(name, relax.TensorType([32], "float32")) for name in "wb")
    with builder.function("main", [x, w, b]):
        with builder.dataflow():
            flat = builder.emit(relax.op.reshape(x, [1, 24, 32]))
            kernel = builder.add_func(fused_group_norm(norm, NormBlocking(16, 16, 1)), "group_norm")
            out = relax.TensorType([1, 6, 8, 32], "float32")
            output = builder.emit_output(relax.call_tir(kernel, [flat, w, b], out))
        builder.emit_func_output(output)
    expected = relax.transform.CanonicalizeBindings()(builder.get())
    fuse = FuseGroupNorm(PROFILE)
    tvm.ir.assert_structural_equal(fuse(Before), expected, map_free_vars=True)
    assert fuse.note == "1 nn.group_norm, 1 with nn.silu, 1 with nn.pad"


def normalised(
    shape: list[int],
    groups: int,
    *,
    activated: bool = True,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    value: float = 0.0,
    channels_padded: int = 0,
    read_twice: str = "",
    padded_first: bool = False,
) -> tvm.IRModule:
    """``pad(silu(group_norm(x)))`` and variations of it; weights are given as numbers of ones and zeros."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    w, b = (relax.Var(name, relax.TensorType([shape[-1]], "float32")) for name in "wb")
    top, left, bottom, right = padding
    width = [0, 0, top, bottom, left, right, 0, channels_padded]
    with builder.function("main", [x, w, b]):
        with builder.dataflow():
            axes = list(range(1, len(shape) - 1))
            norm = builder.emit(relax.op.nn.group_norm(x, w, b, groups, len(shape) - 1, axes))
            result = norm
            if padded_first:
                result = builder.emit(relax.op.nn.pad(result, width, "constant", value))
            if activated:
                result = builder.emit(relax.op.nn.silu(result))
            activation = result
            if len(shape) == 4 and not padded_first:
                result = builder.emit(relax.op.nn.pad(result, width, "constant", value))
            again = {"norm": norm, "activation": activation}.get(read_twice)
            outputs = [result] if again is None else [result, builder.emit(relax.op.negative(again))]
            output = builder.emit_output(relax.Tuple(outputs) if again is not None else result)
        builder.emit_func_output(output)
    return builder.get()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"value": 1.0}, ["nn.pad"]),
        ({"channels_padded": 2}, ["nn.pad"]),
        ({"read_twice": "activation"}, ["nn.pad", "negative"]),
        ({"read_twice": "norm"}, ["nn.silu", "nn.pad", "negative"]),
        ({"padded_first": True}, ["nn.silu"]),
    ],
)
def test_what_is_different_or_read_elsewhere_stays(options: dict, left: list[str]) -> None:
    module = normalised([1, 3, 3, 32], 2, **options)
    kept = [name for name in calls(FuseGroupNorm(PROFILE)(module)) if name not in ("reshape", "group_norm")]
    assert kept == left


def test_leaves_alone_what_the_device_has_no_kernel_for() -> None:
    module = normalised([1, 3, 3, 32], 2)
    same = FuseGroupNorm(small_tiles(PROFILE, norms=None))(module)
    tvm.ir.assert_structural_equal(same, module)
    # Six channels are no whole vectors of four, and more pixels than one launch should read.
    phone = profile("adreno-740")
    for shape in ([1, 3, 3, 6], [1, 33, 32, 32]):
        module = normalised(shape, 2)
        tvm.ir.assert_structural_equal(FuseGroupNorm(phone)(module), module)


def test_large_pictures_are_summed_by_a_launch_of_their_own() -> None:
    small = small_tiles(PROFILE, norms=NormTable(pixels=12, threads=1, bands=2))
    one, two = (normalised([1, height, 4, 32], 2) for height in (3, 4))
    assert calls(FuseGroupNorm(small)(one)) == ["reshape", "group_norm"]
    assert calls(FuseGroupNorm(small)(two)) == ["reshape", "group_norm_moments", "group_norm_rows"]


def devices() -> list[DeviceProfile]:
    return [small_tiles(PROFILE, norms=NormTable(pixels, 1, 3)) for pixels in (0, 1000)]


@given(
    batch=st.integers(1, 2),
    sides=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    size=st.integers(1, 9),
    groups=st.sampled_from([1, 2, 4]),
    activated=st.booleans(),
    padding=st.sampled_from([(1, 1, 1, 1), (0, 2, 1, 0)]),
)
@settings(max_examples=4, deadline=None)
def test_the_result_is_the_same(
    batch: int, sides: list[int], size: int, groups: int, activated: bool, padding: tuple[int, int, int, int]
) -> None:
    shape = [batch, *sides, size * groups]
    module = normalised(shape, groups, activated=activated, padding=padding)
    random = np.random.default_rng(3)
    extents = (shape, shape[-1:], shape[-1:])
    arrays = [random.standard_normal(extent).astype("float32") for extent in extents]
    # TVM's own lowering of some of these does not compile: LLVM's verification fails.
    expected = group_norm(arrays[0].reshape(batch, -1, shape[-1]), *arrays[1:], groups, 1e-5).reshape(shape)
    if activated:
        expected = expected / (1 + np.exp(-expected))
    if len(shape) == 4:
        top, left, bottom, right = padding
        expected = np.pad(expected, ((0, 0), (top, bottom), (left, right), (0, 0)))
    for device in devices():
        [result] = run_relax(FuseGroupNorm(device)(module), arrays, WeightStore())
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())
