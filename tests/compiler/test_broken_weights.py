"""Weights and tokenizers that are torn, or another model's, are refused with the file and the reason."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ddimcache.errors import CompileError, FrontendError
from tests.kit.damage import (
    INDEX,
    MERGES,
    TEXT,
    TEXT_CONFIG,
    UNET,
    UNET_CONFIG,
    VAE,
    VOCABULARY,
    Change,
    append,
    both,
    cut,
    edit_header,
    edit_tensors,
    edit_vocabulary,
    lengthen,
    poison,
    remove,
    rename,
    set_keys,
    write,
)
from tests.kit.device_run import compile_to
from tests.kit.family import copy_stand_in, load_everything

pytestmark = pytest.mark.host


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_stand_in("tiny-sd15", tmp_path / "model")


def in_eight_bits(folder: Path) -> None:
    """Save a component as some tools do; safetensors of numpy has no such type."""
    tensors = load_file(folder / VAE)
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    save_file(small, folder / VAE)


# name -> how to break the folder, the file that the message has to name, and the reason it has to give
BREAKAGES: dict[str, tuple[Change, str, str]] = {
    "weights missing": (remove(UNET), UNET, "weights file is missing"),
    "a pickle": (
        rename(UNET, "unet/diffusion_pytorch_model.bin"),
        "unet/diffusion_pytorch_model.bin",
        "is a pickle, which can run code",
    ),
    "weights empty": (write(TEXT, b""), TEXT, "it has 0 bytes, too few for a header"),
    "weights a page": (write(TEXT, b"<!DOCTYPE html><p>Not found"), TEXT, "not a whole safetensors file"),
    "weights a pointer of git": (
        write(TEXT, b"version https://git-lfs.github.com/spec/v1\n"),
        TEXT,
        "not a whole safetensors file",
    ),
    "header cut": (cut(UNET, lambda size: 500), UNET, "the header claims"),
    "data cut": (cut(UNET, lambda size: size - 1), UNET, "which has"),
    "data too long": (
        append(UNET, b"0"),
        UNET,
        "bytes of data, the file has",
    ),
    "header not JSON": (write(UNET, struct.pack("<Q", 4) + b"{{{{"), UNET, "the header is not JSON"),
    "header a list": (write(UNET, struct.pack("<Q", 2) + b"[]"), UNET, "the header is not a JSON object"),
    "entry without shape": (
        edit_header(UNET, lambda header: header["conv_in.bias"].pop("shape")),
        UNET,
        "the header's entry of `conv_in.bias` lacks dtype, shape or data_offsets",
    ),
    "shape not whole": (
        edit_header(UNET, lambda header: header["conv_in.bias"].update(shape=[32.0])),
        UNET,
        "has a shape or offset that is not a whole number",
    ),
    "unknown dtype": (
        edit_header(UNET, lambda header: header["conv_in.bias"].update(dtype="F12")),
        UNET,
        "`conv_in.bias` has unknown dtype 'F12'",
    ),
    "offsets against shape": (
        edit_header(UNET, lengthen("conv_in.bias", 4)),
        UNET,
        "which is not F32 of shape [32]",
    ),
    "offsets beyond the file": (
        edit_header(UNET, lengthen("conv_in.bias", 10**12)),
        UNET,
        "`conv_in.bias` ends at byte",
    ),
    "offsets that overlap": (
        edit_header(UNET, lambda header: header["conv_out.bias"].update(data_offsets=[0, 16])),
        UNET,
        "begins at byte",
    ),
    "tensor missing": (
        edit_tensors(UNET, lambda tensors: tensors.pop("conv_out.bias")),
        UNET,
        "1 tensor that config.json asks for missing, first `conv_out.bias`",
    ),
    "tensor not expected": (
        edit_tensors(VAE, lambda tensors: tensors.update(extra=np.zeros(3, np.float32))),
        VAE,
        "1 unexpected tensor not in config.json, first `extra`",
    ),
    "a LoRA beside the weights": (
        edit_tensors(
            UNET, lambda tensors: tensors.update({"conv_in.lora_A.weight": np.zeros(3, np.float32)})
        ),
        UNET,
        "adapters (LoRA) must be fused first",
    ),
    "wrong shape": (
        edit_tensors(UNET, lambda tensors: tensors.update({"conv_out.bias": np.zeros(5, np.float32)})),
        UNET,
        "`conv_out.bias` has shape [5], but config.json asks for [4]",
    ),
    "config of a wider model": (
        set_keys(UNET_CONFIG, block_out_channels=[32, 128]),
        UNET,
        "but config.json asks for",
    ),
    "config of a deeper model": (
        set_keys(TEXT_CONFIG, num_hidden_layers=3),
        TEXT,
        "16 tensors that",
    ),
    "weights of whole numbers": (
        edit_tensors(UNET, lambda tensors: tensors.update({"conv_out.bias": np.zeros(4, np.int8)})),
        UNET,
        "`conv_out.bias` is stored as I8",
    ),
    "weights of eight bits": (
        in_eight_bits,
        VAE,
        "is stored as F8_E4M3, not F32 or F16 or BF16; save the weights as float16",
    ),
    "NaN": (edit_tensors(UNET, poison(float("nan"))), UNET, "`conv_out.bias` holds a NaN or an infinity"),
    "infinity": (
        edit_tensors(UNET, poison(float("-inf"))),
        UNET,
        "`conv_out.bias` holds a NaN or an infinity",
    ),
    "shard missing": (
        both(
            rename(UNET, "unet/other.safetensors"),
            write(f"{UNET}.index.json", b'{"weight_map": {"conv_in.bias": "a.safetensors"}}'),
        ),
        "unet/a.safetensors",
        "weights file is missing, though diffusion_pytorch_model.safetensors.index.json lists it",
    ),
    "shard outside the folder": (
        both(
            rename(UNET, "unet/other.safetensors"),
            write(f"{UNET}.index.json", b'{"weight_map": {"conv_in.bias": "../vae/a.safetensors"}}'),
        ),
        f"{UNET}.index.json",
        "which is not the name of a safetensors file in this folder",
    ),
    "index of shards without a map": (
        both(rename(UNET, "unet/other.safetensors"), write(f"{UNET}.index.json", b"{}")),
        f"{UNET}.index.json",
        "has no `weight_map` object",
    ),
    "vocabulary missing": (remove(VOCABULARY), VOCABULARY, "file is missing"),
    "merges missing": (remove(MERGES), MERGES, "file is missing"),
    "vocabulary torn": (
        cut(VOCABULARY, lambda size: size // 2),
        VOCABULARY,
        "is not JSON",
    ),
    "merges not pairs": (
        write(MERGES, b"#version: 0.2\na b\nabc\n"),
        MERGES,
        "line 3 is not a pair of tokens: 'abc'",
    ),
    "merges of unknown tokens": (
        write(MERGES, b"#version: 0.2\na zzzzz\n"),
        VOCABULARY,
        "cannot be read",
    ),
    "merges not text": (
        write(MERGES, b"\xff\xff"),
        MERGES,
        "is not UTF-8 text",
    ),
    "an id that is text": (
        edit_vocabulary(lambda vocabulary: vocabulary.update({"!": "0"})),
        VOCABULARY,
        "maps a token to something that is not an id",
    ),
    "an id twice": (
        edit_vocabulary(lambda vocabulary: vocabulary.update({"!": 1})),
        VOCABULARY,
        "maps two tokens to one id",
    ),
    "vocabulary of another model": (
        edit_vocabulary(lambda vocabulary: vocabulary.update({"zzzz": 1024})),
        VOCABULARY,
        "holds 1025 tokens, but the text encoder's `vocab_size` is 1024",
    ),
    "prompt longer than the text encoder": (
        set_keys("tokenizer/tokenizer_config.json", model_max_length=78),
        "tokenizer/tokenizer_config.json",
        "`model_max_length` is 78, but the text encoder has 77 positions",
    ),
    "tokenizer config torn": (
        write("tokenizer/tokenizer_config.json", b'{"model_max'),
        "tokenizer/tokenizer_config.json",
        "is not JSON",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_file_is_refused_with_file_and_reason(name: str, folder: Path) -> None:
    change, file, reason = BREAKAGES[name]
    change(folder)
    with pytest.raises(FrontendError) as caught:
        load_everything(folder)
    assert caught.value.where == str(folder / file)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(folder / file))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_bytes_are_damaged_no_other_error_escapes(data, folder: Path) -> None:
    """Overwrite any bytes in the first kilobytes of any file: the folder loads, or is refused."""
    name = data.draw(st.sampled_from([UNET, VAE, TEXT, INDEX, VOCABULARY, "tokenizer/tokenizer_config.json"]))
    before = (folder / name).read_bytes()
    place = data.draw(st.integers(0, min(len(before), 4000) - 1), label="place")
    damage = data.draw(st.binary(min_size=1, max_size=4), label="damage")
    refusal = None
    try:
        (folder / name).write_bytes(before[:place] + damage + before[place + len(damage) :])
        load_everything(folder)
    except FrontendError as error:
        refusal = str(error)
    finally:
        (folder / name).write_bytes(before)
    assert refusal is None or str(folder) in refusal


@pytest.mark.parametrize("name", ["encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.bias"])
def test_weights_that_float16_cannot_hold_are_refused(name: str, folder: Path) -> None:
    """Of weights in fp16, and of all where the device computes in it; int8 has a scale in float32."""

    def enlarge(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"text_model.{name}"][-1] = -65520.0

    edit_tensors(TEXT, enlarge)(folder)
    kinds = [("llvm", "fp16")] if name.endswith("weight") else []
    for target, weights in [*kinds, ("adreno-740", "int8")]:
        with pytest.raises(CompileError, match=f"`{name}` of text_encoder: holds numbers beyond 65504"):
            compile_to(folder, folder / "bundle", target=target, weights=weights)
    assert not (folder / "bundle").exists()
