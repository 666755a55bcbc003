"""What passes do to Stable Diffusion's UNets and what a step launches: their graphs, with few channels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tvm import relax

from ddimcache.compiler import pipeline
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.target import DeviceProfile, profile
from ddimcache.kernels.workload import Workload
from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import Preset, scheduler, text_encoder, unet, vae
from ddimcache.schedules.tiled_convolutions import tiling_pays

# The heads of both models; 1.5 has convolutions around its transformers, 2.1 linear layers.
KINDS = {"sd15": {"heads": 8}, "sd21": {"heads": [1, 2, 4, 4], "use_linear_projection": True}}


def narrow(kind: str, folder: Path) -> Path:
    preset = Preset(
        text_encoder(width=16, layers=1, heads=1, vocab_size=600),
        unet((32, 64, 128, 128), cross_attention_dim=16, sample_size=64, norm_num_groups=8, **KINDS[kind]),
        vae((8, 8), sample_size=512, norm_num_groups=4, layers_per_block=1),
        scheduler("DDIMScheduler"),
    )
    return write_stand_in(preset, folder / kind)


def pays_as_wide(device: DeviceProfile, workload: Workload, _sums: str | None, largest: int) -> bool:
    """Whether a convolution is tiled in the models themselves, whose channels are ten times as many."""
    wide = {32: 320, 64: 640, 128: 1280, 96: 960, 192: 1920, 256: 2560}
    sizes = [wide.get(size, size) if place in (3, 4) else size for place, size in enumerate(workload.sizes)]
    return tiling_pays(device, dataclasses.replace(workload, sizes=tuple(sizes)), "chunks", 10 * largest)


# What a pass says of both models: all 61 GroupNorms, 48 LayerNorms, 32 attentions, 16 gated layers, 22 sums
# with the timestep and 12 skips of a full step, and those of the one block that a cached step has too. Behind
# the cut nothing is joined: a norm and two products of the full step are in two parts there.
BOTH = {
    "fuse attention": "",  # PyTorch has it as one operator already
    "common subexpressions": "21 nn.silu",
    # A row of the timestep for each of 22 blocks, keys and values for each of 16 cross-attentions.
    "hoist invariants": "54 strided_slice, 2 concat",
    "merge projections": "86 permute_dims, 86 matmul, 21 add, 2 concat -> 51 strided_slice",
    "lower attention": "34 nn.attention -> 34 kernel attention",
    "split at cut": "2 convolutions split, of 32 channels from the feature",
    "tile rows": "",
    "lower row adds": "23 add -> 23 kernel add_row",
    "limit arguments of joins": "13 of 13 within 128 arguments",
    "lower joins": "11 concat -> 33 reshape, 11 kernel join",
    "lower resizes": "3 image.resize2d -> 3 kernel resize",
}
OPENCL = {
    "lower norms": "51 nn.layer_norm -> 102 reshape, 51 kernel layer_norm",
    "fuse group norm": "66 nn.group_norm, 49 with nn.silu, 49 with nn.pad",
    "fuse geglu": "17 permute_dims, 17 add, 17 matmul, 17 split -> 17 reshape, 17 kernel geglu",
    # The functions share storages, and together need no more than the largest of them.
    "plan memory": "16 storages of 7274496 bytes; cached: 27 tensors in 6, embed_time: 3 tensors in 3, "
    "full: 371 tensors in 16",
}
OF_KIND = {
    ("sd15", "opencl"): {
        **OPENCL,
        "partition at cut": "29 reshape, 17 add, 14 permute_dims, 8 matmul",
        "serialize conv2d": "107 within the limits",
        "add before reshape": "",
        "lower products": "154 reshape, 145 permute_dims, 107 nn.conv2d, 89 matmul -> 139 kernel matmul, "
        "57 nn.pad, 57 kernel conv2d",
        "limit arguments": "165 of 165 within 128 arguments",
        "limit kernels": "143 kernels within the limits: 7 of 128 arguments",
    },
    ("sd21", "opencl"): {
        **OPENCL,
        "partition at cut": "23 reshape, 17 add, 16 permute_dims, 10 matmul",
        "serialize conv2d": "73 within the limits",
        "add before reshape": "17 reshape",
        "lower products": "179 permute_dims, 123 matmul, 86 reshape, 73 nn.conv2d -> 139 kernel matmul, "
        "57 nn.pad, 57 kernel conv2d",
        "limit arguments": "183 of 183 within 128 arguments",
        "limit kernels": "139 kernels within the limits: 7 of 128 arguments",
    },
    ("sd15", "adreno-740"): {
        # Norms of larger pictures are two launches.
        "lower norms": "51 nn.layer_norm, 21 nn.group_norm -> ",
        "fuse group norm": "45 nn.group_norm, 34 with nn.silu, 34 with nn.pad",
        "serialize conv2d": "107 within the limits",
        "limit kernels": "154 kernels within the limits: 7 of 128 arguments",
        "plan memory": "17 storages of 5293056 bytes; cached: 27 tensors in 9, ",
    },
}


@pytest.mark.parametrize(
    ("kind", "target", "full", "cached"),
    [("sd15", "opencl", 374, 28), ("sd21", "opencl", 374, 28), ("sd15", "adreno-740", 397, 28)],
)
def test_a_step_of_512x512(
    kind: str, target: str, full: int, cached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "tiling_pays", pays_as_wide)
    device, folder = profile(target), load_pipeline_folder(narrow(kind, tmp_path))
    component = import_unet(folder.load_unet(), 1, 64, 64, folder.text_length, device.compute_dtype)
    compilation = pipeline.run(pipeline.Request(component, device, "int8", "main", 0))
    launches = {
        name: sum(
            isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.GlobalVar)
            for binding in bindings_of(compilation.module[name])
        )
        for name in ("full", "cached")
    }
    assert launches == {"full": full, "cached": cached}
    notes = {report.phase: report.note for report in compilation.reports}
    for phase, note in (BOTH | OF_KIND[kind, target]).items():
        assert notes[phase].startswith(note), (phase, notes[phase])
        assert note or not notes[phase], (phase, notes[phase])
    # Every product but the first and the last is rounded; its scales lie beside it, and no copy of it.
    kinds = [(name, compilation.store[name].dtype) for name in compilation.weight_names]
    rounded = {name.partition("@")[0] for name, dtype in kinds if dtype == "int8"}
    assert len(rounded) == 198
    assert rounded == {name.partition("@")[0] for name, _ in kinds if name.endswith("@scale")}
    assert len({name.partition("@")[0] for name, _ in kinds if "@fp16@" in name}) == 2
