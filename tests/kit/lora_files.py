"""Writes LoRA files of random numbers, under the names that the tools give their layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

OLD_PROCESSORS = {
    "unet": {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"},
    "text_encoder": {
        "q_proj": "to_q_lora",
        "k_proj": "to_k_lora",
        "v_proj": "to_v_lora",
        "out_proj": "to_out_lora",
    },
}
FORMATS = ("peft", "diffusers", "processors", "kohya")

Parts = Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]
"""By component and layer: down [r, C, ...] and up [O, r, ...]."""


def random_parts(networks: Mapping[str, nn.Module], ranks: tuple[int, ...] = (3, 1, 4)) -> Parts:
    """Parts for every third linear layer and convolution of each network, the ranks in turn."""
    generator = torch.Generator().manual_seed(11)
    parts = {}
    for component, network in networks.items():
        layers = [
            (name, layer)
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]
        for number, (name, layer) in enumerate(layers[::3] + layers[1::7]):
            rank, weight = ranks[number % len(ranks)], layer.weight
            ones = (1,) * (weight.ndim - 2)
            down = torch.randn((rank, *weight.shape[1:]), generator=generator) / weight[0].numel() ** 0.5
            up = torch.randn((weight.shape[0], rank, *ones), generator=generator)
            parts[component, name] = (down, up)
    return parts


def write_lora(
    path: Path, parts: Parts, form: str, alpha: float | None = None, dtype: torch.dtype = torch.float32
) -> Path:
    """Write ``parts`` as ``form``, one of ``FORMATS``; ``alpha`` is of every layer, None for its rank."""
    tensors: dict[str, torch.Tensor] = {}
    for (component, layer), (down, up) in parts.items():
        own = f"text_model.{layer}" if component == "text_encoder" else layer
        if form == "kohya":
            stem = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component] + own.replace(".", "_")
            names = (f"{stem}.lora_down.weight", f"{stem}.lora_up.weight")
            if alpha is not None:
                tensors[f"{stem}.alpha"] = torch.tensor(alpha)
        elif form == "peft":
            names = (f"{component}.{own}.lora_A.weight", f"{component}.{own}.lora_B.weight")
        else:
            block, last = own, ""
            for plain, old in OLD_PROCESSORS[component].items():
                if form == "processors" and own.endswith(f".{plain}"):
                    block, last = own.removesuffix(f".{plain}"), old
            if last:
                block += ".processor" if component == "unet" else ""
                names = (f"{component}.{block}.{last}.down.weight", f"{component}.{block}.{last}.up.weight")
            else:
                kind = {"unet": "lora", "text_encoder": "lora_linear_layer"}[component]
                names = (f"{component}.{own}.{kind}.down.weight", f"{component}.{own}.{kind}.up.weight")
        tensors[names[0]], tensors[names[1]] = down.to(dtype), up.to(dtype)
    metadata = {}
    if form == "peft" and alpha is not None:
        settings = {
            f"{component}.{key}": value
            for component in {component for component, _ in parts}
            for key, value in adapter_settings(parts, component, alpha).items()
        }
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def adapter_settings(parts: Parts, component: str, alpha: float) -> dict[str, object]:
    """PEFT's settings of an adapter, as diffusers keeps them in a file."""
    ranks = {layer: down.shape[0] for (own, layer), (down, _) in parts.items() if own == component}
    most = max(ranks.values())
    return {
        "r": most,
        "lora_alpha": alpha,
        "rank_pattern": {layer: rank for layer, rank in ranks.items() if rank != most},
        "alpha_pattern": {next(iter(ranks)): alpha / 2},
        "target_modules": sorted(ranks),
    }


def merged_by_hand(
    networks: Mapping[str, nn.Module], parts: Parts, scale: float, alpha: float | None = None
) -> dict[tuple[str, str], torch.Tensor]:
    """The weights of the layers that have parts: W + scale * alpha / r * up * down, in float64."""
    merged = {}
    for (component, name), (down, up) in parts.items():
        weight = networks[component].get_submodule(name).weight.double()
        rank = down.shape[0]
        factor = scale * (rank if alpha is None else alpha) / rank
        change = torch.einsum("or,r...->o...", up.double().flatten(1), down.double())
        merged[component, name] = weight + factor * change
    return merged
