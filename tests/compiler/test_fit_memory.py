"""Components in the memory that they may have: in bands of rows, or refused with figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler import pipeline
from ddimcache.compiler.build import _Builder
from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.fit_memory import MemoryLimits, fit
from ddimcache.compiler.frontend.importer import ImportedComponent
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.vae_decoder import import_vae_decoder
from ddimcache.compiler.library import build_library
from ddimcache.compiler.memory_plan import Plan, buffers, peak
from ddimcache.compiler.options import CompileOptions
from ddimcache.compiler.sizes import Sizes
from ddimcache.compiler.target import profile
from ddimcache.errors import CompileError
from tests.kit.device_run import compile_to, psnr
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled

ROOMY = 1 << 40


@I.ir_module
class Chain:
    @R.function
    def main(x: R.Tensor((10,), "float32")) -> R.Tensor((80,), "float32"):
        with R.dataflow():
            a = R.exp(x)
            b = R.reshape(a, R.shape([2, 5]))
            c = R.concat((b, b, b, b), axis=0)
            d = R.reshape(c, R.shape([40]))
            e = R.concat((d, d), axis=0)
            R.output(e)
        return e


def decoder(target: str = "llvm", height: int = 11, width: int = 9) -> pipeline.Request:
    """A small decoder for latents of odd sides."""
    device = profile(target)
    vae = load_pipeline_folder(stand_in("tiny-sd15")).load_vae()
    imported = import_vae_decoder(vae, 1, height, width, device.compute_dtype)
    return pipeline.Request(imported, device, "int8", "decode")


def limits(wanted: int = ROOMY, most: int = ROOMY, allocation: int = ROOMY) -> MemoryLimits:
    return MemoryLimits(wanted, "the test allows", most, allocation)


def planned(compilation: pipeline.Compilation) -> list[int]:
    return list(buffers(compilation.module["decode"]))


def draw(compilation: pipeline.Compilation, request: pipeline.Request, path: Path) -> np.ndarray:
    """The picture that the decoder makes of the same noise."""
    build_library(compilation.module, request.profile, "x86_64-linux-gnu", ["decode"], path)
    device = tvm.device("opencl" if request.profile.kind == "opencl" else "cpu", 0)
    latents = compilation.module["decode"].params[0]
    shape = [int(extent) for extent in latents.ty.shape.values]
    noise = np.random.default_rng(3).standard_normal(shape).astype("float32")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), device)
    weights = [tvm.runtime.tensor(compilation.store.array(name), device) for name in compilation.weight_names]
    return machine["decode"](tvm.runtime.tensor(noise, device), weights).numpy()[0]


@pytest.mark.parametrize("target", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_no_seam_is_seen(target: str, tmp_path: Path) -> None:
    request = decoder(target)
    whole = pipeline.run(request)
    wanted = int(0.95 * sum(planned(whole)))
    tiled = fit(request, limits(wanted=wanted, most=wanted), pipeline.run)
    assert sum(planned(tiled)) <= wanted
    pictures = [draw(whole, request, tmp_path / "whole.so"), draw(tiled, request, tmp_path / "tiled.so")]
    assert np.ptp(pictures[0]) > 100
    # A float32 sum in another order moves a level of 255 where it lies between two, and never by more.
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert psnr(*pictures) > 60


def planner(plans: dict[int, list[int]]) -> tuple[list[int], Callable]:
    """A compiler that plans as told by number of bands, and the numbers that it was asked for."""
    asked: list[int] = []

    def run(request: pipeline.Request) -> pipeline.Compilation:
        bands = request.tiling.bands if request.tiling else 1
        asked.append(bands)
        builder = relax.BlockBuilder()
        with builder.function("decode", []):
            for size in plans[bands]:
                storage = relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")
                builder.emit(storage)
            builder.emit_func_output(relax.Tuple([]))
        compilation = pipeline.Compilation(builder.get(), WeightStore(), {"decode": 0})
        compilation.feature_shapes = ((bands,),)
        compilation.storages = tuple(plans[bands])
        return compilation

    return asked, run


def component() -> pipeline.Request:
    imported = ImportedComponent("vae_decoder", tvm.IRModule(), 1, {}, {})
    return pipeline.Request(imported, profile("llvm"), "int8", "decode")


PLANS = {1: [500, 500], 2: [300, 300], 3: [250, 250], 4: [200, 200], 6: [240, 240]}


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ({}, [1]),
        ({"wanted": 1000}, [1]),
        ({"wanted": 600}, [1, 2]),
        ({"wanted": 400, "most": 400}, [1, 2, 3, 4]),
        # Fewer bands than three cannot make a buffer of 500 fit into 250.
        ({"allocation": 250}, [1, 2, 3]),
        ({"allocation": 240}, [1, 3, 4]),
        # What is wanted is out of reach: the least plan, found when the next one is larger.
        ({"wanted": 10}, [1, 2, 3, 4, 6]),
    ],
)
def test_the_least_number_of_bands_that_fits_is_taken(allowed: dict[str, int], asked: list[int]) -> None:
    seen, run = planner(PLANS)
    compilation = fit(component(), limits(**allowed), run)
    assert seen == asked
    assert compilation.feature_shapes == ((4 if asked[-1] == 6 else asked[-1],),)


@pytest.mark.parametrize(
    ("saved", "wanted", "taken"),
    [({2: 1, 4: 2}, 600, 4), ({2: 2, 4: 2}, 600, 2), ({6: 2}, 390, 3), ({1: 1}, 1000, 1)],
)
def test_twice_the_bands_are_taken_where_tiles_save_more(
    saved: dict[int, float], wanted: int, taken: int
) -> None:
    plans = {**PLANS, 3: [100, 100], 4: [190, 190], 6: [500, 500]}
    seen, run = planner(plans)

    def counting(request: pipeline.Request) -> pipeline.Compilation:
        compilation = run(request)
        compilation.cycles_saved = saved.get(seen[-1], 0)
        if request.tiling is not None and request.tiling.tile_bytes and seen[-1] == 6:
            raise CompileError("no kernel for it", where="vae_decoder", remedy="none")
        return compilation

    request = dataclasses.replace(component(), profile=profile("adreno-740"))
    # In two bands it takes 600, in three 200, whose six cannot be compiled.
    assert fit(request, limits(wanted=wanted), counting).feature_shapes == ((taken,),)
    assert seen == {600: [1, 2, 4], 390: [1, 2, 3, 6], 1000: [1]}[wanted]


def test_only_what_it_takes_beyond_the_others_counts() -> None:
    beside = (Plan((450, 100), 20), Plan((300, 300), 0))
    counted = MemoryLimits(60, "the test allows", 60, ROOMY, beside)
    # Others have 450 and 300: in one piece two of 500 are 250 more, two of 300 in two bands nothing.
    assert [counted.taken(Plan(tuple(PLANS[bands]), 0)) for bands in (1, 2)] == [250, 0]
    seen, run = planner(PLANS)
    assert fit(component(), counted, run).feature_shapes == ((2,),)
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"wanted": 390, "most": 390}, "activations need 400 bytes in 4 bands .* the test allows 390 bytes"),
        ({"allocation": 199}, "a buffer of 200 bytes is needed in 4 bands .* takes at most 199 bytes"),
    ],
)
def test_what_cannot_fit_is_refused_with_figures(allowed: dict[str, int], message: str) -> None:
    with pytest.raises(CompileError, match=f"vae_decoder: {message}"):
        fit(component(), limits(**allowed), planner(PLANS)[1])


def test_a_refusal_where_one_piece_is_least_says_so() -> None:
    plans = {bands: [500, 500] for bands in PLANS}
    with pytest.raises(CompileError, match="activations need 1000 bytes in one piece; the test allows 390"):
        fit(component(), limits(wanted=390, most=390), planner(plans)[1])


@pytest.mark.parametrize(
    ("budget", "refusal"),
    [
        # What another component has, 300, is shared: one piece takes 700 more, four bands 200. The profile
        # wants 150, which no number of bands reaches; what the budget leaves is kept all the same.
        (1100, None),
        (500, None),
        (490, "activations need 200 bytes in 4 bands .* --memory-budget leaves 190 bytes"),
        (400, "activations need 200 bytes in 4 bands .* --memory-budget leaves 100 bytes"),
    ],
)
def test_a_budget_is_kept_beside_what_the_profile_wants(
    budget: int, refusal: str | None, tmp_path: Path
) -> None:
    device = dataclasses.replace(profile("llvm"), wanted_activations=150)
    size = Sizes(8, 8, 8, 1, 4)
    options = CompileOptions(target="llvm", memory_budget=budget)
    builder = _Builder(None, options, device, (size,), tmp_path)  # type: ignore[arg-type]
    builder.planned[size]["unet"] = Plan((300,), 0)
    seen, run = planner(PLANS)
    if refusal is None:
        assert fit(component(), builder._limits(size), run).feature_shapes == ((4,),)
        assert seen == [1, 2, 3, 4, 6]
    else:
        with pytest.raises(CompileError, match=refusal):
            fit(component(), builder._limits(size), run)


def test_the_budget_is_what_the_bundle_keeps_to(tmp_path: Path) -> None:
    model = stand_in("tiny-sd15")
    free = compiled(model, target="opencl").manifest
    decoder_bytes = free.components["vae_decoder"].activation_bytes
    budget = free.activation_bytes - decoder_bytes // 64
    tight = compile_to(model, tmp_path / "tight", target="opencl", memory_budget=budget).manifest
    assert tight.activation_bytes <= budget
    assert tight.components["unet"].activation_bytes == free.components["unet"].activation_bytes
    notes = {entry.component: entry.note for entry in tight.passes if entry.name == "tile rows"}
    assert notes["unet"] == notes["text_encoder"] == ""
    assert "bands of rows: one piece needs" in notes["vae_decoder"]


def test_the_peak_is_what_is_in_use_at_once() -> None:
    compilation = pipeline.run(decoder())
    (found,) = compilation.peaks
    assert found.bytes == sum(tensor.bytes for tensor in found.tensors) <= sum(planned(compilation))


def test_outputs_and_views_are_not_counted_at_the_peak() -> None:
    compiled = tvm.ir.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
        ]
    )(Chain)
    found = peak("main", compiled["main"])
    # The 10 numbers of the first kernel and the 40 of the second; the output is not the call's to plan.
    assert (found.bytes, [tensor.kernel for tensor in found.tensors]) == (200, ["tir_exp", "concatenate"])
