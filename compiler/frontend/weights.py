"""Reads a component's safetensors files without trusting them.

Names, dtypes and shapes come from the files' headers, so that a folder is checked against its configuration
in milliseconds and before anything is allocated; the data is read only when a component is loaded. The format
(https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, a JSON header
``{name: {"dtype", "shape", "data_offsets": [begin, end]}}`` with offsets relative to the header's end, then
the data, which the tensors cover without holes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ddimcache.errors import FrontendError

_ITEM_BYTES = {
    "C64": 8,
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
WEIGHT_DTYPES = ("F32", "F16", "BF16")
# The same limit as the safetensors library's own reader.
_LONGEST_HEADER = 100_000_000
TRANSFORMERS_STEM = "model"
_PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
_SAFETENSORS_REMEDY = (
    "save the pipeline again with `StableDiffusionPipeline.save_pretrained(..., safe_serialization=True)`"
)
COPY_REMEDY = "copy or download the file again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a file's header describes it."""

    file: Path
    stored_name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ComponentWeights:
    """The safetensors files of one component and what their headers say.

    ``tensors`` maps the name that the module uses to the stored tensor.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    def load(self, expected: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
        """Read the tensors named in ``expected`` as float32.

        Raises
        ------
        FrontendError : the data cannot be read, or holds a NaN or an infinity.
        """
        state: dict[str, torch.Tensor] = {}
        for file in self.files:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name, stored in self.tensors.items():
                        if stored.file == file and name in expected:
                            state[name] = finite(
                                opened.get_tensor(stored.stored_name), file, stored.stored_name
                            )
            except (SafetensorError, OSError) as error:
                raise FrontendError(f"cannot be read: {error}", where=file, remedy=COPY_REMEDY) from error
        return state

    def check(self, expected: Mapping[str, torch.Size], ignored: Callable[[str], bool], config: Path) -> None:
        """Compare names, shapes and dtypes with those of the module that ``config`` describes.

        Parameters
        ----------
        expected : shape of every parameter, by name.
        ignored : says of a name that the file may hold it though the module has no such parameter.
        config : the configuration file, for the message.

        Raises
        ------
        FrontendError : a tensor is missing, not expected, of another shape, or not a float.
        """
        where = self.files[0] if len(self.files) == 1 else self.files[0].parent
        missing = sorted(set(expected) - set(self.tensors))
        if missing:
            raise FrontendError(
                f"{_count(missing, 'tensor')} that {config.name} asks for missing, first `{missing[0]}`",
                where=where,
                remedy=f"check that {config} belongs to these weights, or {COPY_REMEDY}",
            )
        extra = sorted(name for name in self.tensors if name not in expected and not ignored(name))
        if extra:
            raise FrontendError(
                f"{_count(extra, 'unexpected tensor')} not in {config.name}, first `{extra[0]}`",
                where=self.tensors[extra[0]].file,
                remedy=f"check that {config} belongs to these weights; adapters (LoRA) must be fused first",
            )
        for name, shape in expected.items():
            stored = self.tensors[name]
            if stored.shape != tuple(shape):
                raise FrontendError(
                    f"`{stored.stored_name}` has shape {list(stored.shape)}, but {config.name} asks for "
                    f"{list(shape)}",
                    where=stored.file,
                    remedy=f"check that {config} belongs to these weights",
                )
            if stored.dtype not in WEIGHT_DTYPES:
                raise FrontendError(
                    f"`{stored.stored_name}` is stored as {stored.dtype}, not {' or '.join(WEIGHT_DTYPES)}",
                    where=stored.file,
                    remedy="save the weights as float16 or float32",
                )


def read_component(folder: Path, stem: str, rename: Callable[[str], str]) -> ComponentWeights:
    """Find the weights of the component in ``folder`` and read their headers.

    Parameters
    ----------
    folder : the component's folder.
    stem : file name without suffixes, such as ``diffusion_pytorch_model``. Plain weights are preferred to
        the ``fp16`` variant; where there are both one file and a sharded set, that which the libraries take:
        diffusers the set, transformers the file.
    rename : maps a stored tensor's name to the name that the module uses.

    Raises
    ------
    FrontendError : there is no safetensors file, or a header is torn or does not fit its file.
    """
    files = _find_files(folder, stem)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for stored in read_header(file):
            name = rename(stored.stored_name)
            if name in tensors:
                raise FrontendError(
                    f"`{stored.stored_name}` is there twice, also in {tensors[name].file.name}", where=file
                )
            tensors[name] = stored
    return ComponentWeights(files, tensors)


def checked_weights(
    config_file: Path, stem: str, make: Callable[[], nn.Module], rename: Callable[[str], str]
) -> ComponentWeights:
    """Find the weights beside a configuration file and compare them with the network that ``make`` builds.

    ``stem`` and ``rename`` are those of :func:`read_component`. Nothing large is read or allocated. Raises
    :class:`FrontendError` as that and :meth:`ComponentWeights.check` do, and where no network can be built.
    """
    weights = read_component(config_file.parent, stem, rename)
    try:
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in make().state_dict().items()}
    # What was not looked at before, the libraries' constructors refuse in errors of every kind.
    except Exception as error:
        raise FrontendError(f"no network can be built from this: {error}", where=config_file) from error
    weights.check(expected, _is_position_ids, config_file)
    return weights


def load_module(make: Callable[[], nn.Module], weights: ComponentWeights) -> Any:
    """Build the module on the meta device, so that nothing is initialised in vain, and put the weights in."""
    with torch.device("meta"):
        module = make()
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    module.load_state_dict(weights.load(expected), strict=True, assign=True)
    for parent in module.modules():
        for name, buffer in parent.named_buffers(recurse=False):
            if buffer.is_meta:
                # The only buffer of the family that no file holds: CLIP's position ids, 0 … length − 1.
                assert name == "position_ids", f"unknown buffer {name} in {type(parent).__name__}"
                parent.register_buffer(name, torch.arange(buffer.shape[-1])[None], persistent=False)
    return module.eval().requires_grad_(False)


def _is_position_ids(name: str) -> bool:
    """Tell the buffer that transformers before 4.31 saved, and that holds 0 … length − 1 in every file."""
    return name.endswith("embeddings.position_ids")


def read_header(file: Path) -> list[StoredTensor]:
    """Read and check the header of one safetensors file.

    Raises
    ------
    FrontendError : the file is torn, or its header contradicts its length or itself.
    """

    def torn(reason: str) -> FrontendError:
        return FrontendError(f"not a whole safetensors file: {reason}", where=file, remedy=COPY_REMEDY)

    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise torn(f"it has {size} bytes, too few for a header")
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > min(size - 8, _LONGEST_HEADER):
                raise torn(f"the header claims {header_bytes} bytes, the file has {size}")
            header = json.loads(stream.read(header_bytes))
    except OSError as error:
        raise FrontendError(f"cannot be read: {error.strerror}", where=file) from error
    except (ValueError, RecursionError) as error:
        raise torn(f"the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise torn("the header is not a JSON object")

    data_bytes = size - 8 - header_bytes
    found, spans = [], []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise torn(f"the header's entry of `{name}` lacks dtype, shape or data_offsets") from error
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise torn(f"the header's entry of `{name}` has a shape or offset that is not a whole number")
        if dtype not in _ITEM_BYTES:
            raise torn(f"`{name}` has unknown dtype {dtype!r}")
        if end > data_bytes:
            raise torn(f"`{name}` ends at byte {end} of the data, which has {data_bytes}")
        if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
            raise torn(f"`{name}` has {end - begin} bytes, which is not {dtype} of shape {list(shape)}")
        found.append(StoredTensor(file, name, dtype, shape))
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise torn(
                f"the data of `{name}` begins at byte {begin}, not at {position} where the last one ends"
            )
        position = end
    if position != data_bytes:
        raise torn(f"the tensors cover {position} bytes of data, the file has {data_bytes}")
    return found


def _find_files(folder: Path, stem: str) -> tuple[Path, ...]:
    for variant in ("", ".fp16"):
        single = folder / f"{stem}{variant}.safetensors"
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file() and not (stem == TRANSFORMERS_STEM and single.is_file()):
            return _sharded_files(index)
        if single.is_file():
            return (single,)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise FrontendError(
            "is a pickle, which can run code when it is read, and there are no safetensors beside it",
            where=folder / pickles[0],
            remedy=_SAFETENSORS_REMEDY,
        )
    raise FrontendError(
        "weights file is missing", where=folder / f"{stem}.safetensors", remedy="download the folder again"
    )


def _sharded_files(index: Path) -> tuple[Path, ...]:
    weight_map: Any = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FrontendError("has no `weight_map` object", where=index, remedy=COPY_REMEDY)
    names = set()
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise FrontendError(
                f"`{tensor}` lies in {name!r}, which is not the name of a safetensors file in this folder",
                where=index,
            )
        names.add(name)
    files = tuple(index.parent / name for name in sorted(names))
    for file in files:
        if not file.is_file():
            raise FrontendError(
                f"weights file is missing, though {index.name} lists it", where=file, remedy=COPY_REMEDY
            )
    return files


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that has to hold an object.

    Raises
    ------
    FrontendError : the file is missing, cannot be read, is not JSON or not an object.
    """
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FrontendError("file is missing", where=path, remedy="download the folder again") from error
    except OSError as error:
        raise FrontendError(f"cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:
        raise FrontendError(f"is not JSON ({error})", where=path, remedy=COPY_REMEDY) from error
    if not isinstance(parsed, dict):
        raise FrontendError(
            f"holds a {type(parsed).__name__}, not a JSON object", where=path, remedy=COPY_REMEDY
        )
    return parsed


def finite(tensor: torch.Tensor, file: Path, name: str) -> torch.Tensor:
    """Return ``tensor`` as float32; raises :class:`FrontendError` if it holds a NaN or an infinity."""
    converted = tensor.to(torch.float32)
    # The extremes are NaN if anything is; this takes a third of the time of a test of every value.
    if not all(math.isfinite(extreme) for extreme in converted.aminmax()):
        raise FrontendError(
            f"`{name}` holds a NaN or an infinity", where=file, remedy="train or convert the model again"
        )
    return converted


def _count(names: Iterable[str], noun: str) -> str:
    count = len(list(names))
    return f"{count} {noun}{'' if count == 1 else 's'}"
