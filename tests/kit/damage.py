"""Ways to break a model folder: each function returns a change to a folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

INDEX = "model_index.json"
UNET_CONFIG = "unet/config.json"
VAE_CONFIG = "vae/config.json"
TEXT_CONFIG = "text_encoder/config.json"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VOCABULARY = "tokenizer/vocab.json"
MERGES = "tokenizer/merges.txt"
Change = Callable[[Path], None]


def set_keys(name: str, **changes: object) -> Change:
    """Change values in a JSON file."""

    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def remove(name: str) -> Change:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def rename(name: str, to: str) -> Change:
    """Rename a file or folder."""
    return lambda folder: (folder / name).rename(folder / to)


def write(name: str, content: bytes) -> Change:
    """Replace what a file holds."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def cut(name: str, kept: Callable[[int], int]) -> Change:
    """Keep only the first bytes of a file, as many as ``kept`` says of its size."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: kept(len(data))])

    return change


def edit_header(name: str, edit: Callable[[dict], None]) -> Change:
    """Change the header of a safetensors file, leaving the data as it is."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        edit(header)
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return change


def edit_tensors(name: str, edit: Callable[[dict[str, np.ndarray]], object]) -> Change:
    """Change the tensors of a safetensors file, and write it properly."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        edit(tensors)
        save_file(tensors, folder / name)

    return change


def poison(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Put a value into a bias of the UNet."""

    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["conv_out.bias"][1] = value

    return edit


def lengthen(tensor: str, count: int) -> Callable[[dict], None]:
    """Move the end of a tensor's data in a header."""

    def edit(header: dict) -> None:
        header[tensor]["data_offsets"][1] += count

    return edit


def both(first: Change, second: Change) -> Change:
    """Break a folder in two ways."""

    def change(folder: Path) -> None:
        first(folder)
        second(folder)

    return change


def append(name: str, content: bytes) -> Change:
    """Put bytes behind the end of a file."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes() + content)

    return change


def edit_vocabulary(edit: Callable[[dict[str, int]], object]) -> Change:
    """Change the tokenizer's vocabulary."""

    def change(folder: Path) -> None:
        file = folder / VOCABULARY
        vocabulary = json.loads(file.read_text())
        edit(vocabulary)
        file.write_text(json.dumps(vocabulary))

    return change


def replace_folder_by_file(name: str) -> Change:
    """Put an empty file where a folder is."""

    def change(folder: Path) -> None:
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()
        (folder / name).write_text("")

    return change
