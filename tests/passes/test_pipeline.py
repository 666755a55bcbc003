"""The whole list of phases over small components."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
from tvm import relax, tirx

from ddimcache.compiler import pipeline
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.text_encoder import import_text_encoder
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.compiler.passes.simplify import static_shape
from ddimcache.compiler.target import profile
from ddimcache.manifest import TIMES_AT_ONCE
from tests.kit.family import stand_in


def request(
    component: str, target: str = "opencl", cut: int = 0, batch: int = 1, weights: str = "int8"
) -> pipeline.Request:
    folder = load_pipeline_folder(stand_in("tiny-sd15"))
    device = profile(target)
    if component == "text_encoder":
        imported = import_text_encoder(folder.load_text_encoder(), folder.text_length, device.compute_dtype)
        return pipeline.Request(imported, device, weights, "encode")
    height, width = folder.latent_size
    imported = import_unet(folder.load_unet(), batch, height, width, folder.text_length, device.compute_dtype)
    return pipeline.Request(imported, device, weights, "main", cut)


@pytest.mark.parametrize(("component", "extra"), [("text_encoder", 0), ("unet", 3)])
def test_every_phase_is_reported_and_dumped(tmp_path: Path, component: str, extra: int) -> None:
    compilation = pipeline.run(request(component), tmp_path)
    assert len(compilation.reports) == pipeline.PHASE_COUNT + extra
    assert len(list(tmp_path.glob(f"{component}-*.py"))) == pipeline.PHASE_COUNT + extra


def test_no_operator_is_left_for_the_default_schedules() -> None:
    compilation = pipeline.run(request("unet"))
    reports = {report.phase: report for report in compilation.reports}
    modules = list(load_pipeline_folder(stand_in("tiny-sd15")).load_unet().modules())
    # Two attentions a transformer block, and two more in the block that a cached step at cut 0 keeps.
    attentions = 2 * sum(type(module).__name__ == "BasicTransformerBlock" for module in modules) + 2
    assert reports["lower attention"].note.startswith(f"{attentions} nn.attention -> {attentions} kernel")
    norms = sum(type(module).__name__ == "GroupNorm" for module in modules)
    # Four in the blocks that a cached step keeps, and one of the full step's is in two parts; all but those
    # of transformers are activated and padded.
    assert reports["fuse group norm"].note.startswith(f"{norms + 5} nn.group_norm, ")
    left = pipeline.operators(compilation.module)
    assert not {name for name in left if name.startswith(("nn.", "matmul", "permute_dims"))}


@pytest.mark.parametrize("target", ["opencl", "adreno-740"])
def test_a_norm_and_a_join_are_one_launch_each(target: str) -> None:
    compilation = pipeline.run(request("unet", target))
    unet = load_pipeline_folder(stand_in("tiny-sd15")).load_unet()
    norms = sum(type(module).__name__ == "GroupNorm" for module in unet.modules())
    joins = sum(len(block.resnets) for block in unet.up_blocks)
    kernels = Counter(
        re.split(r"[_\d]*$", binding.value.op.name_hint)[0]
        for block in compilation.module["full"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.GlobalVar)
    )
    # At the cut each side is normalised and convolved by itself, in place of the join.
    assert (kernels["group_norm"], kernels["join"]) == (norms + 1, joins - 1)
    assert not [name for name in kernels if "concatenate" in name or "silu" in name]


def test_every_kernel_is_launched() -> None:
    module = pipeline.run(request("unet")).module
    kernels = {
        var.name_hint for var, function in module.functions_items() if isinstance(function, tirx.PrimFunc)
    }
    launched = set()
    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            for block in function.body.blocks:
                for binding in block.bindings:
                    call = binding.value
                    if isinstance(call, relax.Call) and isinstance(call.op, relax.GlobalVar):
                        launched.add(call.op.name_hint)
    assert kernels == launched


def test_all_functions_take_the_same_weights() -> None:
    compilation = pipeline.run(request("unet"))
    assert list(compilation.inputs) == ["full", "cached", "embed_time", "project_context"]
    packed = [compilation.module[name].params[-1].ty for name in compilation.inputs]
    assert {len(weights.fields) for weights in packed} == {len(compilation.weight_names)}
    assert compilation.macs["cached"] < compilation.macs["full"]
    assert len(compilation.feature_shapes) == 2


@pytest.mark.parametrize("batch", [1, 2])
def test_steps_read_what_is_computed_once_where_it_lies(batch: int) -> None:
    compilation = pipeline.run(request("unet", batch=batch))
    layers = dict(load_pipeline_folder(stand_in("tiny-sd15")).load_unet().named_modules())
    times = [layer.out_features for name, layer in layers.items() if name.endswith("time_emb_proj")]
    words = [
        layer.out_features for name, layer in layers.items() if name.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    for name in ("full", "cached"):
        _, time, prompt = compilation.module[name].params[:3]
        assert static_shape(time) == [1, sum(times)]
        assert static_shape(prompt) == [batch, 77, sum(words)]
    launched = [
        binding.value.op.name_hint
        for block in compilation.module["full"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.GlobalVar)
    ]
    # Every row joins a convolution; none is cut out by a kernel of its own.
    assert sum("conv2d" in kernel and "add_row" in kernel for kernel in launched) == len(times)
    assert not [kernel for kernel in launched if "slice" in kernel or kernel.startswith("add_row")]
    once, saved = compilation.macs, compilation.macs_saved
    assert saved["full"] == once["project_context"] + batch * once["embed_time"] // TIMES_AT_ONCE
    # The last residual block's first convolution and its shortcut, of which the feature's half is kept.
    behind = [layer for name, layer in layers.items() if re.fullmatch(r"up_blocks\.\d+\.resnets\.\d+", name)][
        -1
    ]
    [_, height, width, kept] = compilation.feature_shapes[0]
    parted = batch * height * width * kept * (behind.conv1.in_channels - kept) * (9 + 1)
    assert 0 < saved["cached"] - parted < saved["full"]


def test_int8_weights_leave_biases_and_norms_alone() -> None:
    compilation = pipeline.run(request("unet"))
    kinds = {name: compilation.store[name].dtype for name in compilation.weight_names}
    assert all("weight" in name for name, dtype in kinds.items() if dtype == "int8")
    assert {dtype for name, dtype in kinds.items() if name.endswith("_bias")} == {"float32"}


def kinds_of(compilation: pipeline.Compilation) -> dict[str, set[str]]:
    """By layer the dtypes of its weights; of merged layers, by the first."""
    found: dict[str, set[str]] = {}
    for name in compilation.weight_names:
        if "@" in name and "@scale" not in name:
            layer = re.split(r"_weight|\+", name)[0].removeprefix("p_encoder_").removeprefix("p_unet_")
            found.setdefault(layer, set()).add(compilation.store[name].dtype)
    return found


def test_the_table_of_tokens_has_a_scale_a_row() -> None:
    for weights in ("int8", "int8-g32"):
        compilation = pipeline.run(request("text_encoder", weights=weights))
        [table] = [name for name in compilation.weight_names if "token_embedding" in name and "int8" in name]
        [scale] = [name for name in compilation.weight_names if "token_embedding" in name and "scale" in name]
        assert compilation.store[scale].shape == compilation.store[table].shape[:1]
        positions = [name for name in compilation.weight_names if "position_embedding" in name]
        assert [compilation.store[name].dtype for name in positions] == ["float32"]
        reports = {report.phase: report.note for report in compilation.reports}
        assert reports["lower lookups"] == "1 tables in int8, one scale a row"


def test_layers_that_are_asked_for_keep_fp16() -> None:
    patterns = ("*.token_embedding", "*.layers.0.self_attn.k_proj", "*.layers.1.*")
    plain = request("text_encoder", "adreno-740")
    before = kinds_of(pipeline.run(plain))
    compilation = pipeline.run(dataclasses.replace(plain, keep_fp16=patterns))
    kept = kinds_of(compilation)
    # Keys that are kept are not merged with queries and values that are not; where all are, they are.
    assert not any("layers_0_self_attn_k" in layer for layer in before)
    assert [dtypes for layer, dtypes in kept.items() if "layers_0_self_attn_k" in layer] == [{"float16"}]
    assert not any("layers_1_self_attn_k" in layer for layer in kept)
    assert all(dtypes == {"float16"} for layer, dtypes in kept.items() if "layers_1_" in layer)
    others = {layer for layer in kept if "layers_1_" not in layer and "self_attn_k" not in layer}
    assert all(kept[layer] == {"int8"} for layer in others)
    assert compilation.store["p_encoder_embeddings_token_embedding_weight"].dtype == "float16"
    assert "p_encoder_embeddings_token_embedding_weight" in compilation.weight_names


def test_rounded_weights_are_converted_inside_kernels() -> None:
    """A copy of them in floating point would be planned like any other tensor."""
    plans = {}
    for weights in ("fp32", "int8", "int8-g32"):
        compilation = pipeline.run(request("unet", weights=weights))
        plans[weights] = [
            (peak.function, peak.bytes, [tensor.shape for tensor in peak.tensors])
            for peak in compilation.peaks
        ]
        called = pipeline.operators(compilation.module)
        plans[weights].append(sum(called.values()))
    assert plans["fp32"] == plans["int8"] == plans["int8-g32"]


def test_the_report_says_which_layers_have_which_scales() -> None:
    compilation = pipeline.run(request("unet", weights="int8-g32"))
    reports = {report.phase: report.note for report in compilation.reports}
    scales = {name: compilation.store[name].shape for name in compilation.weight_names if "@scale" in name}
    grouped = [name for name, shape in scales.items() if len(shape) > 1]
    noted = " ".join(reports[phase] for phase in ("fuse geglu", "lower products"))
    counts = [
        (int(count), int(size)) for count, size in re.findall(r"(\d+) layers with groups of (\d+)", noted)
    ]
    assert sum(count for count, _ in counts) == len(grouped) > 10
    assert all(8 <= size <= 32 for _, size in counts)
    for name in grouped:
        weight = next(
            other for other in compilation.weight_names if other.startswith(name.partition("@")[0] + "@int8g")
        )
        assert compilation.store[weight].dtype == "int8"
