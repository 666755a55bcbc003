"""How many kernels a step of Stable Diffusion's UNets launches: their graphs, with few channels."""

from __future__ import annotations

from pathlib import Path

import pytest
from tvm import relax

from ddimcache.compiler import pipeline
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.target import profile
from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import Preset, scheduler, text_encoder, unet, vae

# The heads of both models; 1.5 has convolutions around its transformers, 2.1 linear layers.
KINDS = {"sd15": {"heads": 8}, "sd21": {"heads": [1, 2, 4, 4], "use_linear_projection": True}}


def narrow(kind: str, folder: Path) -> Path:
    preset = Preset(
        text_encoder(width=8, layers=1, heads=1, vocab_size=600),
        unet((32, 64, 128, 128), cross_attention_dim=8, sample_size=64, norm_num_groups=8, **KINDS[kind]),
        vae((8, 8), sample_size=512, norm_num_groups=4, layers_per_block=1),
        scheduler("DDIMScheduler"),
    )
    return write_stand_in(preset, folder / kind)


@pytest.mark.parametrize(
    ("kind", "target", "full", "cached"),
    [("sd15", "opencl", 371, 29), ("sd21", "opencl", 371, 29), ("sd15", "adreno-740", 387, 33)],
)
def test_a_step_of_512x512(kind: str, target: str, full: int, cached: int, tmp_path: Path) -> None:
    device, folder = profile(target), load_pipeline_folder(narrow(kind, tmp_path))
    component = import_unet(folder.load_unet(), 1, 64, 64, folder.text_length, device.compute_dtype)
    module = pipeline.run(pipeline.Request(component, device, "int8", "main", 0)).module
    launches = {
        name: sum(
            isinstance(binding.value, relax.Call) and isinstance(binding.value.op, relax.GlobalVar)
            for binding in bindings_of(module[name])
        )
        for name in ("full", "cached")
    }
    assert launches == {"full": full, "cached": cached}
