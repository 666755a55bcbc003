"""Writes pipelines of published shapes with random weights, for when no published weights are at hand.

``python -m ddimcache.models.stand_in sd15 OUT`` writes a diffusers folder that everything reads which reads
Stable Diffusion 1.5: the same configurations, tensor names, shapes and dtypes, and a tokenizer of the same
size. The pictures are noise. What the stand-ins are for is everything that depends only on shapes (speed,
memory, plans) and numerical comparison with PyTorch, so the weights are scaled for activations of order one:
a branch that closes a residual keeps a quarter of the variance, and no layer is left at zero.

Every tensor is drawn from its own generator, seeded by the seed and the tensor's name: the same preset and
seed give the same file bytes, whatever the order. Tensors are written one after another, so memory holds one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddimcache.errors import DdimcacheError, UsageError
from ddimcache.models.stand_in_presets import PRESETS, Preset
from ddimcache.models.stand_in_tokenizer import write_tokenizer_folder
from ddimcache.runtime.progress import Progress, SilentProgress, progress_for

DTYPES = {"float16": "F16", "float32": "F32"}
# E[SiLU(z)²] for z of unit variance is 0.356, so 1.68 restores unit variance; GELU 0.425, and GEGLU the same.
_AFTER_SILU = 1.68
_AFTER_GELU = 1.53
# A quarter of a residual branch's variance: 20 of them in a row reach a standard deviation of 2.4.
_CLOSING = 0.5
# The scale, by the end of the tensor's name without ".weight"; 1 where nothing matches. The first match wins.
_GAINS: tuple[tuple[str, float], ...] = (
    ("conv_out", _AFTER_SILU),
    ("conv1", _AFTER_SILU),
    ("conv2", _AFTER_SILU * _CLOSING),
    ("time_embedding.linear_2", _AFTER_SILU),
    ("time_emb_proj", _AFTER_SILU),
    ("to_out.0", _CLOSING),
    ("out_proj", _CLOSING),
    ("ff.net.2", _AFTER_GELU * _CLOSING),
    ("mlp.fc2", _AFTER_GELU * _CLOSING),
    ("proj_out", _CLOSING),
    ("token_embedding", 0.5),
    ("position_embedding", 0.25),
)


def write_stand_in(
    preset: Preset | str,
    out: str | os.PathLike[str],
    seed: int = 0,
    dtype: str = "float16",
    progress: Progress | None = None,
) -> Path:
    """Write a pipeline folder with random weights; it appears whole or not at all.

    Parameters
    ----------
    preset : the configurations, or the name of one of ``PRESETS``.
    out : the folder to make.
    seed : of every weight and of the vocabulary's made-up words.
    dtype : ``float16`` or ``float32``, in which weights are stored.
    progress : where to show how far it is.

    Returns
    -------
    The folder.

    Raises
    ------
    UsageError : the preset or the dtype is unknown, or ``out`` exists already.
    OSError : the disk is full, or may not be written.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise UsageError(f"{preset!r} is not a preset", where="PRESET", remedy=f"use {_choices(PRESETS)}")
        preset = PRESETS[preset]
    if dtype not in DTYPES:
        raise UsageError(f"{dtype!r} is not a dtype", where="--dtype", remedy=f"use {_choices(DTYPES)}")
    folder = Path(out)
    if folder.exists():
        raise UsageError("exists already", where=folder, remedy="remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        _write(preset, partial, seed, DTYPES[dtype], progress or SilentProgress())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(preset: Preset, folder: Path, seed: int, dtype: str, progress: Progress) -> None:
    index = {
        "_class_name": preset.pipeline,
        "_diffusers_version": preset.unet["_diffusers_version"],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", preset.scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)
    configs = {
        "text_encoder/config.json": preset.text_encoder,
        "unet/config.json": preset.unet,
        "vae/config.json": preset.vae,
        "scheduler/scheduler_config.json": preset.scheduler,
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir()
        _write_json(folder / name, config)
    (folder / "tokenizer").mkdir()
    write_tokenizer_folder(
        folder / "tokenizer",
        preset.text_encoder["vocab_size"],
        seed,
        preset.text_encoder["max_position_embeddings"],
        preset.pad_token,
    )
    for component, (file, shapes) in _component_shapes(preset).items():
        megabytes = sum(map(math.prod, shapes.values())) * _item_bytes(dtype) // 1_000_000
        with progress.stage(component, total=max(megabytes, 1)) as stage:
            _write_weights(folder / component / file, component, shapes, seed, dtype, stage.advance)


def _component_shapes(preset: Preset) -> dict[str, tuple[str, dict[str, tuple[int, ...]]]]:
    """Return each component's weights file and its tensors' names and shapes, as in published files."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        text_encoder = CLIPTextModel(CLIPTextConfig(**preset.text_encoder))
        unet = UNet2DConditionModel.from_config(preset.unet)
        vae = AutoencoderKL.from_config(preset.vae)

    def shapes(module: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}{name}": tuple(tensor.shape) for name, tensor in sorted(module.state_dict().items())
        }

    return {
        "text_encoder": ("model.safetensors", shapes(text_encoder, "text_model.")),
        "unet": ("diffusion_pytorch_model.safetensors", shapes(unet)),
        "vae": ("diffusion_pytorch_model.safetensors", shapes(vae)),
    }


def _write_weights(
    file: Path,
    component: str,
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    dtype: str,
    advance: Callable[[int], None],
) -> None:
    """Write a safetensors file tensor by tensor; ``advance`` is told of every megabyte."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        end = position + math.prod(shape) * _item_bytes(dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)))
        stream.write(text)
        written = told = 0
        for name, shape in shapes.items():
            values = draw_weight(f"{component}/{name}", shape, seed)
            written += stream.write(values.astype("<f2" if dtype == "F16" else "<f4").data.cast("B"))
            if written // 1_000_000 > told:
                advance(written // 1_000_000 - told)
                told = written // 1_000_000


def draw_weight(name: str, shape: Sequence[int], seed: int) -> npt.NDArray[np.float32]:
    """Draw one tensor; the name says which layer it belongs to, and by that its scale.

    Parameters
    ----------
    name : the component and the tensor, such as ``unet/conv_in.weight``.
    shape : of the tensor; more than one axis means a matrix or a convolution [out, in, …].
    seed : any whole number.

    Returns
    -------
    float32 array: N(1, 0.1²) for the scale of a norm, N(0, 0.1²) for its shift, N(0, 0.05²) for a bias, and
    N(0, gain² / inputs) for a matrix, with the gain that keeps the variance of what it is given.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "little")))
    values = generator.standard_normal(tuple(shape), dtype=np.float32)
    layer, _, kind = name.rpartition(".")
    if len(shape) == 1:
        if kind == "weight":
            return values * np.float32(0.1) + np.float32(1)
        return values * np.float32(0.1 if "norm" in layer.rpartition(".")[2] else 0.05)
    gain = next((gain for ending, gain in _GAINS if layer.endswith(ending)), 1.0)
    if not layer.endswith("embedding"):
        gain /= math.sqrt(math.prod(shape[1:]))
    values *= np.float32(gain)
    return values


def _item_bytes(dtype: str) -> int:
    return {"F16": 2, "F32": 4}[dtype]


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _choices(names: Mapping[str, Any]) -> str:
    return ", ".join(names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m ddimcache.models.stand_in",
        description="Write a Stable Diffusion pipeline of published shapes with random weights.",
    )
    parser.add_argument("preset", choices=sorted(PRESETS), help="which shapes")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16", help="of the weights (float16)")
    options = parser.parse_args(arguments)
    try:
        write_stand_in(options.preset, options.out, options.seed, options.dtype, progress_for())
    except DdimcacheError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{error.filename or options.out}: {error.strerror}; free some space", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
