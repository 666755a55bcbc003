"""Writes the trained networks as a folder that diffusers' StableDiffusionPipeline loads."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from transformers import CLIPTextModel

from ddimcache.models.shapes.networks import new_scheduler
from ddimcache.models.shapes.tokenizer import write_tokenizer

WEIGHTS = Path(__file__).resolve().parent / "weights"


def export(
    folder: Path, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel
) -> None:
    """Write the pipeline's folder with weights in float16; the networks given are left in float16."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = write_tokenizer(Path(temporary))
        pipeline_type: Any = StableDiffusionPipeline  # its annotations exclude what its users leave out
        pipeline = pipeline_type(
            vae=autoencoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.float16)
        pipeline.save_pretrained(folder, safe_serialization=True)
    # `save_pretrained` may leave out the older pair of files, which other tokenizers read.
    write_tokenizer(folder / "tokenizer")
    # transformers loads in the type its configuration names, diffusers in float32: let both do that.
    configuration = folder / "text_encoder" / "config.json"
    values = json.loads(configuration.read_text(encoding="utf-8"))
    configuration.write_text(json.dumps({**values, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
