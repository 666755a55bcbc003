"""A kernel's shape as a layer: in PyTorch as a model has it, and for the compiler with channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ddimcache.bench.kernels.shapes import KernelShape
from ddimcache.kernels.tiling import largest_divisor


@dataclass(frozen=True)
class Layer:
    """``native`` takes ``native_inputs`` as a PyTorch model would, ``ours`` the same with channels last."""

    native: nn.Module
    native_inputs: tuple[torch.Tensor, ...]
    ours: nn.Module
    inputs: tuple[torch.Tensor, ...]
    picture: bool

    def answer(self) -> torch.Tensor:
        """PyTorch's answer in the layout of ours."""
        with torch.inference_mode():
            result = self.native(*self.native_inputs)
        return result.permute(0, 2, 3, 1).contiguous() if self.picture else result


class _Picture(nn.Module):
    """A layer over [B, C, H, W] given and giving [B, H, W, C]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Attention(nn.Module):
    """Attention over [B, T, H D], as diffusers calls PyTorch's."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, _, width = query.shape
        query, key, value = (
            tensor.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for tensor in (query, key, value)
        )
        result = functional.scaled_dot_product_attention(query, key, value)
        return result.transpose(1, 2).reshape(batch, -1, width)


class _Geglu(nn.Module):
    """A linear layer whose second half gates the first."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(depth, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class _Resize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def layer_of(shape: KernelShape, seed: int) -> Layer:
    """The layer of ``shape`` at batch 1 with random weights and inputs, the same for a seed."""
    torch.manual_seed(seed)
    match shape.family, shape.sizes:
        case (("matmul" | "geglu"), (rows, depth, channels)):
            linear = _Geglu(depth, channels) if shape.family == "geglu" else nn.Linear(depth, channels)
            return _plain(linear, torch.randn(1, rows, depth))
        case "attention", (queries, keys, heads, width):
            tokens = (queries, keys, keys)
            return _plain(_Attention(heads), *(torch.randn(1, count, heads * width) for count in tokens))
        case "layer_norm", (rows, channels):
            return _plain(nn.LayerNorm(channels), torch.randn(1, rows, channels))
        case "group_norm", (rows, channels, groups):
            height = largest_divisor(rows, math.isqrt(rows))
            x = torch.randn(1, channels, height, rows // height)
            return _picture(nn.GroupNorm(groups, channels), x)
        case "resize", (height, width, channels):
            return _picture(_Resize(), torch.randn(1, channels, height, width))
        case "conv1x1", (height, width, depth, channels):
            return _picture(nn.Conv2d(depth, channels, 1), torch.randn(1, depth, height, width))
        case (("conv3x3" | "conv_strided"), (height, width, depth, channels)):
            stride = 2 if shape.family == "conv_strided" else 1
            layer = nn.Conv2d(depth, channels, 3, stride, padding=1)
            return _picture(layer, torch.randn(1, depth, height, width))
    raise AssertionError(f"{shape.family} of {len(shape.sizes)} sizes")


def _plain(layer: nn.Module, *inputs: torch.Tensor) -> Layer:
    return Layer(layer, inputs, layer, inputs, False)


def _picture(layer: nn.Module, x: torch.Tensor) -> Layer:
    return Layer(layer, (x,), _Picture(layer), (x.permute(0, 2, 3, 1).contiguous(),), True)
