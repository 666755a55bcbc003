"""CLIP score: how near pictures are to their prompts, by a CLIP model that the user has.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", EMNLP 2021: the cosine
between the embeddings of picture and text, no less than 0, here times 100, and its mean. The folder is one
that transformers saves (``CLIPModel.save_pretrained``), such as the published ViT-B/32 or ViT-L/14; nothing
in it is unpickled or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from ddimcache.compiler.frontend.component_config import DEEPEST, ConfigReader
from ddimcache.compiler.frontend.tokenizer import load_tokenizer, write_tokenizer
from ddimcache.compiler.frontend.weights import checked_weights, load_module, read_json_object
from ddimcache.errors import FrontendError
from ddimcache.runtime.tokenizer import Tokenizer

_AT_ONCE = 8
# What CLIP's published preprocessors say, where a folder says nothing.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class _Preprocessing:
    """Pictures are scaled to ``shortest`` pixels at their shorter side, and the middle is cut out."""

    shortest: int
    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class ClipScorer:
    """A CLIP model, in float32 on the CPU.

    Raises :class:`FrontendError` for a folder that lacks a file, holds no CLIP model, or whose configuration,
    weights, tokenizer and preprocessor do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        from tempfile import TemporaryDirectory

        config_file = folder / "config.json"
        values = read_json_object(config_file)
        if values.get("model_type") != "clip":
            raise FrontendError(
                f"`model_type` is {values.get('model_type')!r}, not 'clip'",
                where=config_file,
                remedy="name a folder that holds a whole CLIPModel, with its text and its vision side",
            )
        try:
            config: Any = CLIPConfig.from_dict(values)
        # The library checks values in errors of every kind.
        except Exception as error:
            raise FrontendError(f"is no configuration of CLIP: {error}", where=config_file) from error
        text, vision = config.text_config, config.vision_config
        for each in (text, vision):
            # To build a network of any depth takes time, before its weights are looked at.
            ConfigReader(config_file, each.to_dict()).whole("num_hidden_layers", maximum=DEEPEST)
        image_size = ConfigReader(config_file, vision.to_dict()).whole("image_size", maximum=4096)
        weights = checked_weights(config_file, "model", lambda: CLIPModel(config), lambda name: name)
        # Read as a bundle's tokenizer is, so that a prompt is cut to the model's length in the same way.
        tokenizer, constants = load_tokenizer(folder, text.vocab_size, text.max_position_embeddings)
        with TemporaryDirectory() as scratch:
            write_tokenizer(tokenizer, constants, Path(scratch))
            self._tokenizer = Tokenizer(scratch)
        self._preprocessing = _preprocessing(folder / "preprocessor_config.json", image_size)
        self._model: Any = load_module(lambda: CLIPModel(config), weights)

    def score(self, pictures: NDArray[np.uint8], prompts: Sequence[str]) -> float:
        """Return the mean over uint8 (N, H, W, 3) pictures and their N prompts, 0 … 100."""
        cosines = []
        with torch.inference_mode():
            for start in range(0, len(prompts), _AT_ONCE):
                images = self._images(pictures[start : start + _AT_ONCE])
                texts = self._texts(prompts[start : start + _AT_ONCE])
                cosines.append((images * texts).sum(1).clamp(min=0))
        return float(100 * torch.cat(cosines).double().mean())

    def _images(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Return unit embeddings (N, D)."""
        chosen = self._preprocessing
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (chosen.mean, chosen.deviation))
        batch = torch.stack([_tensor(picture, chosen) for picture in pictures])
        pooled = self._model.vision_model((batch - mean) / deviation).pooler_output
        return torch.nn.functional.normalize(self._model.visual_projection(pooled))

    def _texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return unit embeddings (N, D); what stands behind a text's end is not seen."""
        ids = torch.tensor([self._tokenizer.encode(prompt) for prompt in prompts])
        pooled = self._model.text_model(ids).pooler_output
        return torch.nn.functional.normalize(self._model.text_projection(pooled))


def _tensor(picture: NDArray[np.uint8], chosen: _Preprocessing) -> torch.Tensor:
    """Scale, cut out the middle, and return float32 (3, size, size) from 0 to 1."""
    height, width = picture.shape[:2]
    shorter = min(height, width)
    size = (chosen.shortest * width // shorter, chosen.shortest * height // shorter)
    scaled = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    left, top = ((side - chosen.size) // 2 for side in scaled.size)
    middle = scaled.crop((left, top, left + chosen.size, top + chosen.size))
    return torch.from_numpy(np.asarray(middle, dtype=np.float32) / 255).permute(2, 0, 1)


def _preprocessing(path: Path, image_size: int) -> _Preprocessing:
    values = read_json_object(path) if path.is_file() else {}

    def side(key: str, *names: str) -> int:
        value = values.get(key, image_size)
        if isinstance(value, dict):
            value = next((value[name] for name in names if name in value), None)
        if type(value) is not int or not image_size <= value <= 4096:
            raise FrontendError(
                f"`{key}` is {values.get(key)!r}, but the model takes pictures of {image_size}", where=path
            )
        return value

    def channels(key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        value = values.get(key, default)
        numbers = isinstance(value, list | tuple) and all(type(each) in (int, float) for each in value)
        if not numbers or len(value) != 3 or (key == "image_std" and min(value) <= 0):
            raise FrontendError(f"`{key}` is {value!r}, not three numbers", where=path)
        return tuple(map(float, value))

    size = side("crop_size", "height")
    if size != image_size:
        raise FrontendError(
            f"`crop_size` is {size}, but the model takes pictures of {image_size}", where=path
        )
    shortest = side("size", "shortest_edge", "height")
    return _Preprocessing(shortest, size, channels("image_mean", _MEAN), channels("image_std", _DEVIATION))
