"""Reads LoRA files and adds them to the weights of a network, before anything is rounded.

A LoRA (Hu et al., arXiv 2106.09685) changes the weight W [O, C, ...] of a linear layer or a convolution by
``scale * alpha / r * B A``, A ("down") being [r, C, ...] and B ("up") [O, r]. Layers and parts are named in
one of these ways:

- diffusers and PEFT: ``unet.mid_block.attentions.0.proj_in.lora_A.weight``, ``lora_B``; before PEFT
  ``lora.down``, ``lora.up``, ``lora_linear_layer.down``; ``attn1.processor.to_q_lora.down``; for the text
  encoder ``text_encoder.text_model.encoder.layers.0...``. Alpha is in the file's metadata, else r.
- kohya: ``lora_unet_mid_block_attentions_0_proj_in.lora_down.weight``, ``lora_up``, ``alpha``; ``lora_te_``
  for the text encoder.

The file is not trusted: its header is checked against its length, every name, dtype and shape against the
network, and only then is a layer's data read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ddimcache.compiler.frontend.weights import (
    COPY_REMEDY,
    WEIGHT_DTYPES,
    StoredTensor,
    finite,
    read_header,
)
from ddimcache.compiler.options import LoraChoice
from ddimcache.errors import FrontendError

_METADATA = "lora_adapter_metadata"
_SUFFIXES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
}
_KOHYA_SUFFIXES = {".lora_down.weight": "down", ".lora_up.weight": "up", ".alpha": "alpha"}
_KOHYA_PREFIXES = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder"}
# Attention processors had the layers under other names; the text encoder's borrowed them.
_PROCESSOR_LAYERS = {
    "unet": {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"},
    "text_encoder": {
        "to_q_lora": "q_proj",
        "to_k_lora": "k_proj",
        "to_v_lora": "v_proj",
        "to_out_lora": "out_proj",
    },
}
# PEFT reads regular expressions. Of these letters, those of layers' names and the marks for begin, end and a
# dot, each is done in no time; others could take for ever.
_PLAIN_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")
# Those with which PEFT leaves a network's own weights as they are until the parts are read.
_INITIALS = (None, True, False, "gaussian", "orthogonal", "eva")
_KINDS_REMEDY = "LoRA of linear layers and convolutions is supported; no DoRA, LoHa, LoKr or other change"


@dataclass(frozen=True)
class LoraLayer:
    """What a file has for one layer: its parts, and ``factor``, alpha / r."""

    down: StoredTensor
    up: StoredTensor
    factor: float


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file that fits a pipeline: by component (``unet``, ``text_encoder``) and layer."""

    choice: LoraChoice
    sha256: str
    layers: Mapping[str, Mapping[str, LoraLayer]]

    def merge_into(self, network: nn.Module, component: str) -> None:
        """Adds the file's part for ``component`` to the weights of ``network``, which are float32.

        Raises :class:`FrontendError` where data cannot be read, or holds a NaN or an infinity.
        """
        path = self.choice.path
        layers = self.layers.get(component, {})
        try:
            with safe_open(path, framework="pt") as opened, torch.no_grad():
                for name, layer in layers.items():
                    down, up = (
                        finite(opened.get_tensor(part.stored_name), path, part.stored_name)
                        for part in (layer.down, layer.up)
                    )
                    module: Any = network.get_submodule(name)
                    change = (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
                    merged = module.weight + change * (layer.factor * self.choice.scale)
                    if not torch.isfinite(merged).all():
                        raise FrontendError(
                            f"makes weights of `{name}` infinite", where=path, remedy="take a smaller scale"
                        )
                    module.weight = nn.Parameter(merged, requires_grad=False)
        except (SafetensorError, OSError) as error:
            raise FrontendError(f"cannot be read: {error}", where=path, remedy=COPY_REMEDY) from error


def read_lora(choice: LoraChoice, networks: Mapping[str, Mapping[str, tuple[int, ...]]]) -> LoraFile:
    """Reads the header of a LoRA file and checks it.

    Parameters
    ----------
    choice : the file, and how much of it is added.
    networks : shape of the weight of every linear layer and convolution, by component and layer.

    Raises
    ------
    FrontendError : the file is torn, names what is no part of a LoRA or no layer of these networks, lacks a
        part, or has a shape or dtype that does not fit.
    """
    path = choice.path
    if not path.is_file():
        raise FrontendError("file is missing", where=path, remedy="check the path of --lora")
    parts: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    unknown = []
    names = _Names(networks)
    for stored in read_header(path):
        place = names.place(stored.stored_name)
        if place is None:
            unknown.append(stored.stored_name)
            continue
        component, layer, part = place
        found = parts.setdefault((component, layer), {})
        if part in found:
            raise FrontendError(
                f"`{stored.stored_name}` and `{found[part].stored_name}` are the same part of `{layer}`",
                where=path,
            )
        found[part] = stored
    if unknown:
        owners = [each for each in networks if names.place(f"{each}.{min(unknown)}") is not None]
        remedy = f"check that it was trained for this model; {_KINDS_REMEDY}"
        if owners:
            remedy = (
                f"its names do not say whose layers they are: put `{owners[0]}.` before each, or write the "
                "file again with `StableDiffusionPipeline.save_lora_weights`"
            )
        raise FrontendError(
            f"`{min(unknown)}` is no part of a LoRA for this model"
            + (f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else ""),
            where=path,
            remedy=remedy,
        )
    if not parts:
        raise FrontendError("holds no tensors", where=path, remedy=COPY_REMEDY)
    alphas = _alphas(path, parts)
    layers: dict[str, dict[str, LoraLayer]] = {}
    for (component, layer), found in parts.items():
        _check_parts(path, layer, found, networks[component][layer])
        rank = found["down"].shape[0]
        factor = alphas.of(component, layer, rank)
        layers.setdefault(component, {})[layer] = LoraLayer(found["down"], found["up"], factor)
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FrontendError(f"cannot be read: {error.strerror}", where=path) from error
    return LoraFile(choice, digest, layers)


class _Names:
    """Finds the layer that a tensor's name means."""

    def __init__(self, networks: Mapping[str, Iterable[str]]) -> None:
        self._networks = networks
        self._flat = {
            component: {layer.replace(".", "_"): layer for layer in layers}
            for component, layers in networks.items()
        }

    def place(self, name: str) -> tuple[str, str, str] | None:
        """Component, layer and part (``down``, ``up`` or ``alpha``) of a tensor, or ``None``."""
        for prefix, component in _KOHYA_PREFIXES.items():
            if name.startswith(prefix):
                flat, part = _split(name.removeprefix(prefix), _KOHYA_SUFFIXES)
                if component == "text_encoder":
                    flat = flat.removeprefix("text_model_")
                layer = self._flat[component].get(flat)
                return None if layer is None or not part else (component, layer, part)
        component, _, rest = name.partition(".")
        if component not in self._networks:
            return None
        layer, part = _split(rest, _SUFFIXES)
        if not part:
            layer, part = _split(rest, {".down.weight": "down", ".up.weight": "up"})
            block, _, last = layer.rpartition(".")
            layer = f"{block.removesuffix('.processor')}.{_PROCESSOR_LAYERS[component].get(last, '')}"
        if component == "text_encoder":
            layer = layer.removeprefix("text_model.")
        return (component, layer, part) if part and layer in self._networks[component] else None


def _split(name: str, suffixes: Mapping[str, str]) -> tuple[str, str]:
    for suffix, part in suffixes.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), part
    return name, ""


def _check_parts(path: Path, layer: str, found: Mapping[str, StoredTensor], weight: tuple[int, ...]) -> None:
    for part, names in (("down", "lora_A or lora_down"), ("up", "lora_B or lora_up")):
        if part not in found:
            raise FrontendError(f"`{layer}` lacks its {names}", where=path, remedy=COPY_REMEDY)
        if found[part].dtype not in WEIGHT_DTYPES:
            raise FrontendError(
                f"`{found[part].stored_name}` is stored as {found[part].dtype}, not "
                f"{' or '.join(WEIGHT_DTYPES)}",
                where=path,
            )
    down, up = found["down"], found["up"]
    rank = down.shape[0] if down.shape else 1
    # A layer of 1 x 1 may be written as a linear layer, and the reverse.
    shapes = {
        "down": [(rank, *weight[1:]), *_pointwise((rank, *weight[1:]))],
        "up": [(weight[0], rank, 1, 1)[: len(weight)], *_pointwise((weight[0], rank, 1, 1)[: len(weight)])],
    }
    for part, tensor in (("down", down), ("up", up)):
        if rank < 1 or tensor.shape not in shapes[part]:
            raise FrontendError(
                f"`{tensor.stored_name}` has shape {list(tensor.shape)}, but a weight of {list(weight)} asks "
                f"for {list(shapes[part][0])}",
                where=path,
                remedy="check that it was trained for this model",
            )


def _pointwise(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(shape) == 2:
        return [(*shape, 1, 1)]
    return [shape[:2]] if shape[2:] == (1, 1) else []


class _Alphas:
    """Alpha over rank of every layer: of tensors beside the layers, of the metadata, or 1."""

    def __init__(
        self, path: Path, tensors: Mapping[tuple[str, str], float], metadata: Mapping[str, Any]
    ) -> None:
        self._path, self._tensors, self._metadata = path, tensors, metadata

    def of(self, component: str, layer: str, rank: int) -> float:
        """What the product of a layer's parts is multiplied by."""
        if (component, layer) in self._tensors:
            return self._tensors[component, layer] / rank
        alpha = self._metadata.get(f"{component}.lora_alpha", rank)
        patterns = self._metadata.get(f"{component}.alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise self._bad(f"{component}.alpha_pattern")
        # transformers before 5 had the text encoder's layers inside a module `text_model`.
        names = [layer, f"text_model.{layer}"] if component == "text_encoder" else [layer]
        for pattern, value in patterns.items():
            if not _PLAIN_PATTERN.fullmatch(pattern):
                raise FrontendError(
                    f"`{component}.alpha_pattern` of `{_METADATA}` has the regular expression {pattern!r}; "
                    "only names of layers are supported",
                    where=self._path,
                )
            if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                alpha = value
                break
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise self._bad(f"{component}.lora_alpha")
        root = self._metadata.get(f"{component}.use_rslora", False) is True
        return alpha / (math.sqrt(rank) if root else rank)

    def _bad(self, key: str) -> FrontendError:
        return FrontendError(f"metadata `{_METADATA}` has no usable `{key}`", where=self._path)


def _alphas(path: Path, parts: Mapping[tuple[str, str], Mapping[str, StoredTensor]]) -> _Alphas:
    """Reads what the file says of alpha; refuses files of which tools make different things."""
    named = {place: found["alpha"] for place, found in parts.items() if "alpha" in found}
    without = [layer for (component, layer) in parts if (component, layer) not in named]
    if named and without:
        raise FrontendError(f"`{without[0]}` has no alpha, though {len(named)} other layers have", where=path)
    values: dict[tuple[str, str], float] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA)
            for place, stored in named.items():
                if math.prod(stored.shape) != 1:
                    raise FrontendError(
                        f"`{stored.stored_name}` has shape {list(stored.shape)}, not one number", where=path
                    )
                tensor = opened.get_tensor(stored.stored_name)
                values[place] = float(finite(tensor, path, stored.stored_name))
    except (SafetensorError, OSError) as error:
        raise FrontendError(f"cannot be read: {error}", where=path, remedy=COPY_REMEDY) from error
    if text is None:
        return _Alphas(path, values, {})
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrontendError(f"metadata `{_METADATA}` is not JSON ({error})", where=path) from error
    if not isinstance(metadata, dict):
        raise FrontendError(f"metadata `{_METADATA}` is not a JSON object", where=path)
    if values:
        raise FrontendError(f"says alpha twice, in tensors and in `{_METADATA}`", where=path)
    for key, value in metadata.items():
        if key.endswith((".use_dora", ".lora_bias", ".fan_in_fan_out")) and value:
            raise FrontendError(f"`{key}` of `{_METADATA}` is set", where=path, remedy=_KINDS_REMEDY)
        if key.endswith(".init_lora_weights") and value not in _INITIALS:
            raise FrontendError(
                f"`{key}` of `{_METADATA}` is {value!r}, which also changes the model's own weights",
                where=path,
                remedy="save it with PEFT's `path_initial_model_for_weight_conversion`",
            )
    return _Alphas(path, values, metadata)


def layer_shapes(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """The shape of the weight of every linear layer and convolution among a component's ``tensors``."""
    return {
        name.removesuffix(".weight"): stored.shape
        for name, stored in tensors.items()
        if name.endswith(".weight") and len(stored.shape) in (2, 4) and "embeddings." not in name
    }
