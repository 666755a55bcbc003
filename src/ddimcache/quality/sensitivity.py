"""Which blocks of a model suffer from rounded weights: block-wise reconstruction error.

Every block is run twice on the inputs that it has in the float32 model, once with its own weights rounded.
Its reconstruction error is the squared error of its output over the squared output; its output error is the
same of the whole component with that block alone rounded. Rounding is the compiler's
(``compiler/compress/quantize.py``), of the same weights: those of convolutions and linear layers, sensitive
ones to fp16, and the table of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ddimcache.compiler.compress.quantize import stored_values
from ddimcache.manifest import WeightsKind
from ddimcache.runtime.progress import Progress

Rounding = Callable[..., np.ndarray]
"""As ``stored_values`` without a kind."""
_CALLS = 2  # of the UNet, spread over the steps, whose inputs are kept
_STEPS = 8


@dataclass(frozen=True)
class BlockError:
    """Relative squared errors of a block with rounded weights, of its output and of the component's."""

    component: str
    block: str
    parameters: int
    reconstruction_error: float
    output_error: float


ROUNDINGS: dict[str, Rounding] = {
    kind: partial(stored_values, kind=kind) for kind in get_args(WeightsKind) if kind != "fp32"
}
"""What the compiler leaves of a layer's weights, by the kind of a bundle's weights."""


@contextmanager
def rounded(block: nn.Module, rounding: Rounding) -> Iterator[None]:
    """Round the weights of a block's convolutions, linear layers and tables while the context is open."""
    layers = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)]
    kept = [layer.weight.data for layer in layers]
    try:
        for layer in layers:
            table = isinstance(layer, nn.Embedding)
            layer.weight.data = torch.from_numpy(rounding(layer.weight.data.numpy(), table=table))
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight.data = weight


def load_pipeline(folder: Path) -> Any:
    """Load a StableDiffusionPipeline in float32 on the CPU, without its progress bar."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def blocks_of(component: str, network: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks of a component by name: residual blocks, transformers, layers that stand alone."""
    kinds = ("ResnetBlock2D", "Transformer2DModel", "Attention", "CLIPEncoderLayer", "TimestepEmbedding")
    found: dict[str, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        # Positions are taken in a fixed order, and their table is not rounded.
        table = isinstance(module, nn.Embedding) and name.endswith("token_embedding")
        if type(module).__name__ in kinds or table or isinstance(module, nn.Conv2d | nn.Linear):
            found[name] = module
            return
        for child_name, child in module.named_children():
            visit(f"{name}.{child_name}" if name else child_name, child)

    visit("", network)
    if component == "vae_decoder":
        found = {
            name: block for name, block in found.items() if not name.startswith(("encoder", "quant_conv"))
        }
    return found


def sensitivity(
    pipeline: Any, prompts: Sequence[str], guidance: float, rounding: Rounding, progress: Progress
) -> list[BlockError]:
    """Return the errors of every block of a StableDiffusionPipeline in float32 on the CPU, the worst first.

    Inputs are those of drawing ``prompts`` in 8 steps, seeds from 0.
    """
    calls: dict[str, list[tuple[tuple, dict]]] = {"text_encoder": [], "unet": [], "vae_decoder": []}
    networks: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
        "text_encoder": (pipeline.text_encoder, lambda *a, **k: pipeline.text_encoder(*a, **k)[0]),
        "unet": (pipeline.unet, lambda *a, **k: pipeline.unet(*a, **{**k, "return_dict": False})[0]),
        "vae_decoder": (pipeline.vae, lambda z: pipeline.vae.decode(z, return_dict=False)[0]),
    }
    with torch.inference_mode():
        _record(pipeline, prompts, guidance, calls)
        calls["unet"] = calls["unet"][:: max(1, len(calls["unet"]) // _CALLS)][:_CALLS]
        found = []
        parts = [(name, *networks[name], blocks_of(name, networks[name][0])) for name in calls]
        with progress.stage("blocks", sum(len(blocks) for *_, blocks in parts)) as stage:
            for name, _, run, blocks in parts:
                inputs, outputs = _reference(run, calls[name], blocks)
                for block_name, block in blocks.items():
                    with rounded(block, rounding):
                        own = _errors(
                            (block(*args, **kwargs), output) for args, kwargs, output in inputs[block_name]
                        )
                        whole = _errors(
                            (run(*args, **kwargs), output)
                            for (args, kwargs), output in zip(calls[name], outputs, strict=True)
                        )
                    parameters = sum(parameter.numel() for parameter in block.parameters())
                    found.append(BlockError(name, block_name, parameters, own, whole))
                    stage.advance(note=block_name)
    return sorted(found, key=lambda each: -each.output_error)


def _record(pipeline: Any, prompts: Sequence[str], guidance: float, calls: dict[str, list]) -> None:
    hooks = [
        pipeline.text_encoder.register_forward_pre_hook(
            lambda _, args, kwargs: calls["text_encoder"].append((args, kwargs)), with_kwargs=True
        ),
        pipeline.unet.register_forward_pre_hook(
            lambda _, args, kwargs: calls["unet"].append((args, kwargs)), with_kwargs=True
        ),
    ]
    try:
        latents = pipeline(
            list(prompts),
            num_inference_steps=_STEPS,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
            output_type="latent",
        ).images
    finally:
        for hook in hooks:
            hook.remove()
    calls["vae_decoder"].append(((latents / pipeline.vae.config.scaling_factor,), {}))


def _reference(
    run: Callable[..., Tensor], calls: list[tuple[tuple, dict]], blocks: dict[str, nn.Module]
) -> tuple[dict[str, list[tuple[tuple, dict, Tensor]]], list[Tensor]]:
    """Run the component as it is; return every block's inputs and outputs, and the component's outputs."""
    kept: dict[str, list[tuple[tuple, dict, Tensor]]] = {name: [] for name in blocks}

    def keep(name: str, _: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        kept[name].append((args, kwargs, _tensor(output)))

    hooks = [
        block.register_forward_hook(partial(keep, name), with_kwargs=True) for name, block in blocks.items()
    ]
    try:
        outputs = [run(*args, **kwargs) for args, kwargs in calls]
    finally:
        for hook in hooks:
            hook.remove()
    return kept, outputs


def _errors(pairs: Iterator[tuple[Any, Tensor]]) -> float:
    error = total = 0.0
    for found, expected in pairs:
        error += float((_tensor(found) - expected).double().square().sum())
        total += float(expected.double().square().sum())
    return error / total if total else 0.0


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
