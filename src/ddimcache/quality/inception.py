"""Inception V3 up to its 2048 pooled features, for the Fréchet distance (FID) of pictures of real models.

The network is Szegedy et al.'s (CVPR 2016), with the names that torchvision gives its tensors. Weights come
from a file that the user has, a state dict in safetensors or one that ``torch.load`` reads with
``weights_only``. With 1008 classes they are those that FID is defined by, ported from TensorFlow: their
network pools without counting the border, and takes the largest and not the mean in the last block. With
1000 they are torchvision's; distances by those are no FIDs of the literature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ddimcache.compiler.frontend.weights import COPY_REMEDY, finite, read_header
from ddimcache.errors import FrontendError

SIDE = 299
"""Pixels that the network takes pictures at."""
FEATURES = 2048
_AT_ONCE = 8
_FID_CLASSES = 1008
_PICKLES = (".pth", ".pt", ".bin")

Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]
"""Name, channels out, and the size of the kernel."""


class _Convolution(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (sides[0] // 2, sides[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(inputs)))


class _Block(nn.Module):
    """Chains of convolutions side by side, their outputs joined.

    ``chains`` is of layers; a list in place of the last one is of layers that all read what comes before.
    The last chain pools first and then has the convolution ``branch_pool`` of ``pooled`` channels; where that
    is 0, the block halves the picture: the last layer of each chain and the pool have stride 2.
    """

    def __init__(self, inputs: int, chains: list[list[Any]], pooled: int, pool: str) -> None:
        super().__init__()
        self._chains: list[list[list[str]]] = []
        self._halves, self._pool = pooled == 0, pool
        for chain in chains:
            channels, names = inputs, []
            for place, entry in enumerate(chain):
                forks: list[Layer] = entry if isinstance(entry, list) else [entry]
                shrinks = self._halves and place == len(chain) - 1
                for name, outputs, kernel in forks:
                    layer = _Convolution(channels, outputs, kernel, 2 if shrinks else 1, not shrinks)
                    self.add_module(name, layer)
                names.append([name for name, *_ in forks])
                channels = sum(outputs for _, outputs, _ in forks)
            self._chains.append(names)
        if pooled:
            self.branch_pool = _Convolution(inputs, pooled, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        joined = []
        for chain in self._chains:
            value = inputs
            for forks in chain:
                value = torch.cat([self.get_submodule(name)(value) for name in forks], 1)
            joined.append(value)
        joined.append(self._pooled(inputs))
        return torch.cat(joined, 1)

    def _pooled(self, inputs: Tensor) -> Tensor:
        if self._halves:
            return functional.max_pool2d(inputs, 3, 2)
        if self._pool == "largest":
            value = functional.max_pool2d(inputs, 3, 1, 1)
        else:
            value = functional.avg_pool2d(inputs, 3, 1, 1, count_include_pad=self._pool == "with border")
        return self.branch_pool(value)


def _narrow(inputs: int, pooled: int, pool: str) -> _Block:
    """35×35: kernels of 1, 5, and 3 twice."""
    deep: list[Any] = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    five: list[Any] = [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)]
    return _Block(inputs, [[("branch1x1", 64, 1)], five, deep], pooled, pool)


def _wide(inputs: int, inner: int, pool: str) -> _Block:
    """17×17: kernels of 7 in one direction after the other."""
    row, column = (1, 7), (7, 1)
    seven: list[Any] = [("branch7x7_1", inner, 1), ("branch7x7_2", inner, row), ("branch7x7_3", 192, column)]
    deep: list[Any] = [
        ("branch7x7dbl_1", inner, 1),
        ("branch7x7dbl_2", inner, column),
        ("branch7x7dbl_3", inner, row),
        ("branch7x7dbl_4", inner, column),
        ("branch7x7dbl_5", 192, row),
    ]
    return _Block(inputs, [[("branch1x1", 192, 1)], seven, deep], 192, pool)


def _widest(inputs: int, pool: str) -> _Block:
    """8×8: kernels of 3 in both directions side by side."""
    three: list[Any] = [
        ("branch3x3_1", 384, 1),
        [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
    ]
    deep: list[Any] = [
        ("branch3x3dbl_1", 448, 1),
        ("branch3x3dbl_2", 384, 3),
        [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
    ]
    return _Block(inputs, [[("branch1x1", 320, 1)], three, deep], 192, pool)


class InceptionNetwork(nn.Module):
    """Pictures (N, 3, 299, 299) from −1 to 1 to features (N, 2048)."""

    def __init__(self, *, is_fid: bool) -> None:
        super().__init__()
        pool = "without border" if is_fid else "with border"
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, padded=False)
        self.Mixed_5b = _narrow(192, 32, pool)
        self.Mixed_5c = _narrow(256, 64, pool)
        self.Mixed_5d = _narrow(288, 64, pool)
        three: list[Any] = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
        self.Mixed_6a = _Block(288, [[("branch3x3", 384, 3)], three], 0, pool)
        self.Mixed_6b = _wide(768, 128, pool)
        self.Mixed_6c = _wide(768, 160, pool)
        self.Mixed_6d = _wide(768, 160, pool)
        self.Mixed_6e = _wide(768, 192, pool)
        seven: list[Any] = [
            ("branch7x7x3_1", 192, 1),
            ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)),
            ("branch7x7x3_4", 192, 3),
        ]
        self.Mixed_7a = _Block(768, [[("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)], seven], 0, pool)
        self.Mixed_7b = _widest(1280, pool)
        self.Mixed_7c = _widest(2048, "largest" if is_fid else pool)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features; the blocks run in the order in which they were made."""
        value = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pictures)))
        value = functional.max_pool2d(value, 3, 2)
        value = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(value)), 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                value = block(value)
        return value.mean((2, 3))


class InceptionFeatures:
    """The features of pictures, by the weights of a file, or of the only one in a folder.

    Raises :class:`FrontendError` where there is none, it cannot be read without running code, or it is of
    another network.
    """

    def __init__(self, path: Path) -> None:
        file = _weights_file(path)
        state = _read(file)
        classes = state["fc.weight"].shape[0] if "fc.weight" in state else _FID_CLASSES
        self.is_fid = classes == _FID_CLASSES
        """Whether the weights, by their number of classes, are those that FID is defined by."""
        with torch.device("meta"):
            network = InceptionNetwork(is_fid=self.is_fid)
        wanted = {
            name: tensor.shape
            for name, tensor in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        for name, shape in wanted.items():
            if name not in state:
                raise FrontendError(f"`{name}` is missing", where=file, remedy="name weights of Inception V3")
            if state[name].shape != shape or not state[name].is_floating_point():
                raise FrontendError(
                    f"`{name}` is {state[name].dtype} of shape {list(state[name].shape)}, Inception V3 has "
                    f"floats of {list(shape)}",
                    where=file,
                    remedy="name weights of Inception V3 with torchvision's names",
                )
        kept = {name: finite(state[name], file, name) for name in wanted}
        network.load_state_dict(kept, strict=False, assign=True)
        self._network = network.eval().requires_grad_(False)

    def of(self, pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Return float64 (N, 2048) for uint8 pictures (H, W, 3), each of a size of its own."""
        found = []
        with torch.inference_mode():
            for batch in _batches(pictures):
                found.append(self._network(torch.cat([_scaled(picture) for picture in batch])).double())
        return torch.cat(found).numpy() if found else np.empty((0, FEATURES))


def _scaled(picture: NDArray[np.uint8]) -> Tensor:
    """Return (1, 3, 299, 299) from −1 to 1, bilinear as FID's implementation in PyTorch scales."""
    values = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
    scaled = functional.interpolate(values, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * scaled - 1


def _batches(pictures: Iterable[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
    batch = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for suffixes in ((".safetensors",), _PICKLES):
        found = sorted(each for each in path.iterdir() if each.suffix in suffixes)
        if len(found) == 1:
            return found[0]
        if found:
            raise FrontendError(
                f"holds {len(found)} files of weights: {', '.join(each.name for each in found)}",
                where=path,
                remedy="name the one of Inception V3",
            )
    raise FrontendError("holds no weights", where=path, remedy="name a .safetensors or .pth file")


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        read_header(file)
        return load_file(file)
    if file.suffix not in _PICKLES:
        raise FrontendError(
            "is neither .safetensors nor a state dict in .pth, .pt or .bin", where=file, remedy=COPY_REMEDY
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FrontendError("does not exist", where=file) from error
    # PyTorch raises whatever the file led it to, and refuses what would run code by an UnpicklingError.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FrontendError(
            f"cannot be read as tensors alone: {reason}",
            where=file,
            remedy="save the network's state_dict(), better as safetensors",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FrontendError(
            "holds something else than a state dict", where=file, remedy="save the network's state_dict()"
        )
    return state
