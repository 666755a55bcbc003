"""Reads the folder of a diffusers pipeline and refuses what the compiler does not support.

Everything is checked before anything large is read: configurations key by key, tensor names and shapes from
the weights' headers against a module built on the meta device, the tokenizer against the text encoder, and
the components against each other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ddimcache.compiler.frontend import family
from ddimcache.compiler.frontend.component_config import ConfigReader
from ddimcache.compiler.frontend.lora import LoraFile, layer_shapes, read_lora
from ddimcache.compiler.frontend.tokenizer import TokenizerConstants, load_tokenizer, tokenizer_files
from ddimcache.compiler.frontend.weights import (
    TRANSFORMERS_STEM,
    ComponentWeights,
    checked_weights,
    load_module,
    read_json_object,
)
from ddimcache.compiler.options import LoraChoice
from ddimcache.errors import FrontendError

_INDEX = "model_index.json"
# Of the same parts; what they begin with is asked when a picture is drawn.
_PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
)
_CLASSES = {
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": family.SCHEDULERS,
}
_TEXT_ENCODER_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)
# diffusers before 0.15 named the attention of the VAE's middle block otherwise; the published files still do.
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_VAE_PATTERN = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline that was checked; its networks are read when asked for.

    The configurations hold what the files say with diffusers' and transformers' defaults filled in, those of
    DDIM for the scheduler; ``scheduler_values`` is its file as it is.
    """

    path: Path
    text_encoder_config: Mapping[str, Any]
    unet_config: Mapping[str, Any]
    vae_config: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    scheduler_values: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    tokenizer: CLIPTokenizer
    tokenizer_constants: TokenizerConstants
    text_encoder_weights: ComponentWeights
    unet_weights: ComponentWeights
    vae_weights: ComponentWeights
    loras: tuple[LoraFile, ...] = ()

    @property
    def latent_channels(self) -> int:
        """Channels of the latents: 4 for all published models."""
        return self.unet_config["out_channels"]

    @property
    def inpaints(self) -> bool:
        """Whether the UNet takes a mask and the latents of a masked picture beside its own."""
        return self.unet_config["in_channels"] > self.latent_channels

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents of a picture of default size."""
        value = self.unet_config["sample_size"]
        return (value, value) if isinstance(value, int) else (value[0], value[1])

    @property
    def vae_scale(self) -> int:
        """Pixels of the picture for one of the latents, along each axis."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    def text_length(self) -> int:
        """Tokens of a prompt, padding included."""
        return self.tokenizer_constants.max_length

    @property
    def text_width(self) -> int:
        """Channels of the text embedding, the UNet's ``cross_attention_dim``."""
        return self.text_encoder_config["hidden_size"]

    @property
    def layers(self) -> set[str]:
        """Paths in their component of all modules that have weights."""
        components = self.text_encoder_weights, self.unet_weights, self.vae_weights
        return {name.rpartition(".")[0] for weights in components for name in weights.tensors}

    def load_text_encoder(self) -> CLIPTextModel:
        """Return the text encoder in float32 and evaluation mode, LoRAs merged.

        Raises
        ------
        FrontendError : its weights cannot be read, or hold a NaN or an infinity.
        """
        network = load_module(lambda: _make_text_encoder(self.text_encoder_config), self.text_encoder_weights)
        return self._with_loras(network, "text_encoder")

    def load_unet(self) -> UNet2DConditionModel:
        """Return the UNet in float32 and evaluation mode, LoRAs merged; raises as the text encoder."""
        network = load_module(lambda: UNet2DConditionModel(**self.unet_config), self.unet_weights)
        return self._with_loras(network, "unet")

    def _with_loras(self, network: Any, component: str) -> Any:
        for lora in self.loras:
            lora.merge_into(network, component)
        return network

    def load_vae(self) -> AutoencoderKL:
        """Return the VAE, encoder and decoder, in float32 and evaluation mode; raises as the others."""
        return load_module(lambda: AutoencoderKL(**self.vae_config), self.vae_weights)

    def files(self) -> tuple[Path, ...]:
        """List the files that decide what the pipeline computes."""
        configs = (
            self.path / _INDEX,
            self.path / "text_encoder" / "config.json",
            self.path / "unet" / "config.json",
            self.path / "vae" / "config.json",
            self.path / "scheduler" / "scheduler_config.json",
        )
        weights = (*self.text_encoder_weights.files, *self.unet_weights.files, *self.vae_weights.files)
        return (*configs, *tokenizer_files(self.path / "tokenizer"), *weights)

    def fingerprint(self) -> str:
        """Return the SHA-256 over names and contents of :meth:`files`, and over LoRAs, in hexadecimal.

        Two folders with the same fingerprint compile to the same bundle. Reads all of the weights: about as
        fast as the disk.
        """
        total = hashlib.sha256()
        for file in self.files():
            try:
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise FrontendError(f"cannot be read: {error.strerror}", where=file) from error
            total.update(f"{file.relative_to(self.path).as_posix()} {digest}\n".encode())
        for lora in self.loras:
            total.update(f"lora {lora.choice.scale!r} {lora.sha256}\n".encode())
        return total.hexdigest()


def load_pipeline_folder(path: str | os.PathLike[str], loras: Sequence[LoraChoice] = ()) -> PipelineFolder:
    """Read the folder of a Stable Diffusion pipeline (1.x or 2.x, also one for inpainting) and check it.

    Weights may be stored as float16, bfloat16 or float32, in one safetensors file a component or in shards. A
    safety checker and other components that do not take part in text to image are left alone.

    Parameters
    ----------
    path : the folder that holds ``model_index.json``.
    loras : files whose changes the networks get when they are loaded, one after another.

    Raises
    ------
    FrontendError : something is missing, torn, contradictory or not supported; the message names the file.
    """
    root = Path(path)
    index = _read_index(root)
    for component, classes in _CLASSES.items():
        _check_class(root, index, component, classes)

    unet_file = root / "unet" / "config.json"
    vae_file = root / "vae" / "config.json"
    text_file = root / "text_encoder" / "config.json"
    scheduler_file = root / "scheduler" / "scheduler_config.json"
    unet = _with_published_size(unet_file, _read_config(unet_file, UNet2DConditionModel))
    vae = _read_config(vae_file, AutoencoderKL)
    scheduler = _read_config(scheduler_file, DDIMScheduler)
    text = {**_text_encoder_defaults(), **read_json_object(text_file)}
    family.check_unet(ConfigReader(unet_file, unet))
    family.check_vae(ConfigReader(vae_file, vae))
    family.check_scheduler(ConfigReader(scheduler_file, scheduler))
    family.check_text_encoder(ConfigReader(text_file, text))
    _check_together(unet_file, unet, vae_file, vae, text_file, text)

    tokenizer, constants = load_tokenizer(
        root / "tokenizer", text["vocab_size"], text["max_position_embeddings"]
    )
    tokenizer_file = root / "tokenizer" / "tokenizer_config.json"
    folder = PipelineFolder(
        path=root,
        text_encoder_config=text,
        unet_config=unet,
        vae_config=vae,
        scheduler_config=scheduler,
        scheduler_values=read_json_object(scheduler_file),
        tokenizer_config=read_json_object(tokenizer_file) if tokenizer_file.is_file() else {},
        tokenizer=tokenizer,
        tokenizer_constants=constants,
        text_encoder_weights=checked_weights(
            text_file, TRANSFORMERS_STEM, lambda: _make_text_encoder(text), _text_name
        ),
        unet_weights=checked_weights(
            unet_file, "diffusion_pytorch_model", lambda: UNet2DConditionModel(**unet), lambda name: name
        ),
        vae_weights=checked_weights(
            vae_file, "diffusion_pytorch_model", lambda: AutoencoderKL(**vae), _vae_name
        ),
    )
    layers = {
        "unet": layer_shapes(folder.unet_weights.tensors),
        "text_encoder": layer_shapes(folder.text_encoder_weights.tensors),
    }
    return dataclasses.replace(folder, loras=tuple(read_lora(choice, layers) for choice in loras))


def _read_index(root: Path) -> dict[str, Any]:
    if root.is_file():
        raise FrontendError(
            "is a file, not the folder of a diffusers pipeline",
            where=root,
            remedy="convert a single-file checkpoint with `StableDiffusionPipeline.from_single_file` first",
        )
    if not root.is_dir():
        raise FrontendError("folder is missing", where=root, remedy="check the path")
    index_file = root / _INDEX
    if not index_file.is_file():
        raise FrontendError(
            "file is missing, so the folder is no diffusers pipeline",
            where=index_file,
            remedy="name the folder that `StableDiffusionPipeline.save_pretrained` wrote",
        )
    index = read_json_object(index_file)
    if index.get("_class_name") not in _PIPELINES:
        raise FrontendError(
            f"`_class_name` is {index.get('_class_name')!r}, which is not supported",
            where=index_file,
            remedy="use a StableDiffusionPipeline or StableDiffusionInpaintPipeline (1.x or 2.x)",
        )
    return index


def _check_class(root: Path, index: Mapping[str, Any], component: str, classes: tuple[str, ...]) -> None:
    entry = index.get(component)
    if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in classes:
        raise FrontendError(
            f"`{component}` is {entry!r}, which is not supported; {' or '.join(classes)} is",
            where=root / _INDEX,
        )
    if not (root / component).is_dir():
        raise FrontendError(
            f"folder is missing, though {_INDEX} names it",
            where=root / component,
            remedy="download the pipeline again",
        )


def _read_config(file: Path, cls: type) -> dict[str, Any]:
    """Read the values that the constructor of ``cls`` takes, defaults filled in.

    Other keys are diffusers' notes, or parameters of another scheduler; ``from_config`` drops them as well.
    """
    values = read_json_object(file)
    allowed = family.SCHEDULERS if cls is DDIMScheduler else (cls.__name__,)
    if values.get("_class_name") not in allowed:
        raise FrontendError(
            f"`_class_name` is {values.get('_class_name')!r}, not supported; {' or '.join(allowed)} is",
            where=file,
        )
    parameters = inspect.signature(cls).parameters.values()
    return {parameter.name: values.get(parameter.name, parameter.default) for parameter in parameters}


def _with_published_size(file: Path, unet: dict[str, Any]) -> dict[str, Any]:
    """Correct the sample size of a UNet's configuration as the constructor of diffusers' pipeline does.

    The first published files, of diffusers before 0.9, and what was trained from them say 32 for latents of
    64 x 64.
    """
    version = re.match(r"0\.(\d+)\b", str(read_json_object(file).get("_diffusers_version")))
    size = unet["sample_size"]
    if version is not None and int(version[1]) < 9 and type(size) is int and 1 <= size < 64:
        return unet | {"sample_size": 64}
    return unet


def _text_encoder_defaults() -> dict[str, Any]:
    defaults = CLIPTextConfig()
    return {key: getattr(defaults, key) for key in _TEXT_ENCODER_KEYS}


def _make_text_encoder(values: Mapping[str, Any]) -> CLIPTextModel:
    chosen = {key: values[key] for key in _TEXT_ENCODER_KEYS}
    # The ids of special tokens concern only the pooled output, which Stable Diffusion does not use; these are
    # the published ones, which fit any vocabulary.
    return CLIPTextModel(CLIPTextConfig(**chosen, bos_token_id=0, pad_token_id=1, eos_token_id=2))


def _check_together(
    unet_file: Path,
    unet: Mapping[str, Any],
    vae_file: Path,
    vae: Mapping[str, Any],
    text_file: Path,
    text: Mapping[str, Any],
) -> None:
    cross = unet["cross_attention_dim"]
    width = cross if isinstance(cross, int) else cross[0]
    if text["hidden_size"] != width:
        raise FrontendError(
            f"`hidden_size` is {text['hidden_size']}, but `cross_attention_dim` of {unet_file} is {width}",
            where=text_file,
            remedy="take text encoder and UNet from the same pipeline",
        )
    if vae["latent_channels"] != unet["out_channels"]:
        raise FrontendError(
            f"`latent_channels` is {vae['latent_channels']}, but `out_channels` of {unet_file} is "
            f"{unet['out_channels']}",
            where=vae_file,
            remedy="take VAE and UNet from the same pipeline",
        )


def _text_name(stored: str) -> str:
    # transformers before 5 put the text encoder inside a module `text_model`.
    return stored.removeprefix("text_model.")


def _vae_name(stored: str) -> str:
    return _OLD_VAE_PATTERN.sub(lambda found: f"{found[1]}.{_OLD_VAE_ATTENTION[found[2]]}.{found[3]}", stored)
