"""What a mask keeps of a picture and how both prompts guide, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from ddimcache.compiler.target import profile
from ddimcache.kernels.sampler import kernel, reference
from ddimcache.schedules.threads_to_loops import threads_to_loops


@pytest.mark.parametrize(
    "target", [pytest.param("llvm", marks=pytest.mark.host), pytest.param("opencl", marks=pytest.mark.opencl)]
)
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 3, 5, 7)])
def test_a_mask_keeps_the_picture_where_it_is_0(target: str, shape: tuple[int, int, int, int]) -> None:
    random = np.random.default_rng(8)
    latents, picture, noise = random.standard_normal((3, *shape)).astype("float32")
    mask = random.integers(0, 2, shape[2:]).astype("float32")
    # What the device overwrites must not reach the result by way of a product.
    latents[np.broadcast_to(mask == 0, shape)] = np.nan
    table = random.standard_normal((kernel.MOST_STEPS, kernel.COLUMNS)).astype("float32")
    present = 41
    function = kernel.keep_picture(shape)
    device_profile = profile(target)
    if target == "llvm":
        function = threads_to_loops(function)
    library = tvm.compile(
        tvm.IRModule({"main": function.with_attr("global_symbol", "main")}),
        target=device_profile.tvm_target(),
    )
    device = tvm.device("opencl" if target == "opencl" else "cpu", 0)
    row = np.array([present, present + 1], "int32")
    arguments = [tvm.runtime.tensor(each, device) for each in (latents, picture, noise, mask, table, row)]
    library["main"](*arguments)
    expected = reference.keep_picture(latents, picture, noise, mask, tuple(table[present, 10:12]))
    # Two products and a sum.
    np.testing.assert_allclose(arguments[0].numpy(), expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize(
    "target", [pytest.param("llvm", marks=pytest.mark.host), pytest.param("opencl", marks=pytest.mark.opencl)]
)
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 3, 5, 7)])
def test_both_predictions_guide_a_step(target: str, shape: tuple[int, int, int, int]) -> None:
    random = np.random.default_rng(9)
    start, uncond, cond, history, noise = random.standard_normal((5, *shape)).astype("float32")
    table = random.standard_normal((kernel.MOST_STEPS, kernel.COLUMNS)).astype("float32")
    present = 17
    table[present, 4] = 0.75
    device = tvm.device("opencl" if target == "opencl" else "cpu", 0)
    results = []
    for function, predictions in (
        (kernel.guide_and_step(shape), [uncond, cond]),
        (kernel.guide_both_and_step(shape), [np.concatenate([uncond, cond])]),
    ):
        function = threads_to_loops(function) if target == "llvm" else function
        library = tvm.compile(
            tvm.IRModule({"main": function.with_attr("global_symbol", "main")}),
            target=profile(target).tvm_target(),
        )
        row = np.array([present, 0], "int32")
        given = (start, *predictions, history, noise, table, row)
        arguments = [tvm.runtime.tensor(each, device) for each in given]
        library["main"](*arguments)
        assert list(arguments[-1].numpy()) == [present, present + 1]
        results.append((arguments[0].numpy(), arguments[-4].numpy()))
    expected = reference.guide_and_step(start, uncond, cond, history, noise, table[present])
    for latents, pictures in results:
        np.testing.assert_allclose(latents, expected[0], rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(pictures, expected[1], rtol=2e-6, atol=2e-6)
