"""How products are summed in float16: by rule, as asked, and what the rule's bound is worth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler import pipeline
from ddimcache.compiler.accumulate import HALF_ROUNDING, Accumulation, half_error
from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder, load_pipeline_folder
from ddimcache.compiler.options import CompileOptions, LayerChoice
from ddimcache.compiler.target import profile
from ddimcache.errors import UsageError
from ddimcache.kernels.tags import PIXELS
from tests.kit.device_run import compile_to
from tests.kit.family import stand_in
from tests.passes.test_pipeline import request

PHONE = profile("adreno-740")


def matrix(outputs: int, depth: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((outputs, depth)).astype("float32")


def decided(shape: tuple[int, ...], weight: np.ndarray, *choices: str, rounded: bool = True) -> str | None:
    accumulation = Accumulation(
        PHONE, [LayerChoice.parse(text) for text in choices], lambda key: f"mid.{key}"
    )
    return accumulation.sums_of("proj", shape, lambda: weight, rounded)


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((8, 384), "half"),
        ((8, 388), "chunks"),
        ((8, 3, 3, 40), "half"),
        ((8, 3, 3, 44), "chunks"),
        ((8, 3), None),
    ],
)
def test_the_rule_goes_by_length(shape: tuple[int, ...], how: str | None) -> None:
    assert decided(shape, matrix(8, int(np.prod(shape[1:])))) == how


def test_weights_that_are_not_rounded_are_summed_in_float32() -> None:
    long, short = matrix(4, 640), matrix(4, 64)
    for shape, weight in (((4, 640), long), ((4, 64), short)):
        assert decided(shape, weight, rounded=False) == "float"
        assert decided(shape, weight, "float32", "mid.*=auto", rounded=False) == "float"
        assert decided(shape, weight, "float16", rounded=False) == decided(shape, weight)
    assert decided((8, 3), matrix(8, 3), rounded=False) is None


def test_weights_that_come_early_speak_against_one_sum() -> None:
    weight = matrix(8, 320)
    weight[:, 4:] *= 0.01
    assert half_error(weight) > PHONE.tiles.pixels.most_half_error > half_error(weight[:, ::-1])  # type: ignore[union-attr]
    assert decided((8, 320), weight) == "chunks"
    assert decided((8, 320), weight[:, ::-1]) == "half"


def test_the_last_choice_that_names_a_layer_counts() -> None:
    long, short = matrix(4, 640), matrix(4, 64)
    assert decided((4, 640), long, "float16") == "chunks"
    assert decided((4, 64), short, "float16") == "half"
    assert decided((4, 64), short, "float32") == "float"
    assert decided((4, 64), short, "float32", "mid.*=auto") == "half"
    assert decided((4, 64), short, "mid.*=float32", "down.*=float16") == "float"


def test_a_device_that_reads_no_pixels_has_no_choice() -> None:
    accumulation = Accumulation(profile("opencl"), [LayerChoice.parse("float16")])
    assert accumulation.sums_of("w", (4, 64), lambda: matrix(4, 64), True) is None


@settings(max_examples=20, deadline=None)
@given(depth=st.integers(16, 384), spread=st.floats(0.0, 3.0), seed=st.integers(0, 999))
def test_the_bound_is_that_of_float16_sums(depth: int, spread: float, seed: int) -> None:
    """Held against sums that are really taken in float16, for weights that shrink or grow along the sum."""
    random = np.random.default_rng(seed + 1000)
    weight = (matrix(8, depth, seed) * np.exp(-spread * np.linspace(0, 1, depth))).astype("float16")
    x = random.standard_normal((200, depth)).astype("float16")
    products = x[:, None].astype("float64") * weight[None].astype("float64")
    total = np.zeros(products.shape[:2], "float16")
    for k in range(depth):
        # One rounding an addition, as a fused multiply-add has.
        total = (total.astype("float64") + products[:, :, k]).astype("float16")
    exact = products.sum(axis=2)
    errors = ((total - exact) ** 2).mean(axis=0) / (exact**2).mean(axis=0)
    measured, bound = np.sqrt(errors.mean()), half_error(weight)
    assert HALF_ROUNDING * np.sqrt(depth / 6) < bound * 1.5 < 1.5 * HALF_ROUNDING * np.sqrt(depth)
    assert bound / 2 < measured < bound


@pytest.mark.parametrize("text", ["", "half", "=float32", "up_blocks.*=", "up_blocks.*=double"])
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--accumulate"):
        CompileOptions(accumulate=(text,))


def test_choices_are_part_of_the_options() -> None:
    options = CompileOptions(accumulate=("float32", "conv_in=auto"))
    assert CompileOptions.from_json(options.to_json()) == options != CompileOptions()


def test_every_product_of_a_unet_is_summed_as_reported() -> None:
    def compiled(*choices: str) -> tuple[dict[str, str], list[str]]:
        asked = request("unet", target="adreno-740")
        choice = tuple(LayerChoice.parse(text) for text in choices)
        compilation = pipeline.run(dataclasses.replace(asked, accumulate=choice))
        notes = {report.phase: report.note for report in compilation.reports}
        ways: list[Any] = [
            str(function.attrs[PIXELS])
            for _, function in compilation.module.functions_items()
            if function.attrs is not None and PIXELS in function.attrs
        ]
        return notes, [way for way in ways if way != "attention"]

    notes, ways = compiled()
    # Only the first and the last layer, whose weights are not rounded.
    assert set(ways) == {"half", "chunks", "float"}
    assert ways.count("float") == 2, ways
    for phase in ("lower products", "fuse geglu"):
        assert "summed in" in notes[phase]
        assert "asked" not in notes[phase]
    notes, ways = compiled("float32")
    assert set(ways) == {"float"}
    assert "summed in float32 as asked" in notes["lower products"]
    notes, ways = compiled("float32", "*.attn1.*=auto")
    assert "float" in ways
    assert set(ways) & {"half", "chunks"}
    notes, ways = compiled("float16")
    assert set(ways) == {"half", "chunks"}


def test_a_pattern_of_no_layer_is_a_slip_of_the_pen() -> None:
    layers = {"mid_block.attentions.0.proj_in", "conv_in"}
    CompileOptions(
        keep_fp16=("mid_block.*", "conv_in"), accumulate=("float32", "*.proj_in=auto")
    ).check_layers(layers)
    with pytest.raises(UsageError, match=r"--keep-fp16: no layer of this model is called 'midblock\.\*'"):
        CompileOptions(keep_fp16=("mid_block.*", "midblock.*")).check_layers(layers)
    with pytest.raises(UsageError, match=r"is called 'mid_block'; write 'mid_block\.\*' for those in it"):
        CompileOptions(keep_fp16=("mid_block",)).check_layers(layers)
    with pytest.raises(UsageError, match=r"--accumulate: no layer of this model is called 'conv_on'; `insp"):
        CompileOptions(accumulate=("conv_on=float32",)).check_layers(layers)


def test_a_slip_is_told_before_anything_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = load_pipeline_folder(stand_in("small"))
    for network in (folder.load_text_encoder(), folder.load_unet(), folder.load_vae()):
        assert {path.rpartition(".")[0] for path, _ in network.named_parameters()} <= folder.layers

    def load(_: object) -> None:
        pytest.fail("a component was read")

    monkeypatch.setattr(PipelineFolder, "load_text_encoder", load)
    with pytest.raises(UsageError, match="--keep-fp16: no layer of this model is called 'conv_on'"):
        compile_to(stand_in("small"), tmp_path / "bundle", target="llvm", keep_fp16=("conv_on",))
