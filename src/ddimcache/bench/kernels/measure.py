"""Times the kernels of a model one by one, in turns with their peers.

A layer goes through all phases of the compiler, so what is timed is what a model's bundle would launch. No
time is taken before it gives PyTorch's answer with the same rounded weights.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddimcache.bench import turns
from ddimcache.bench.answer import checked_error
from ddimcache.bench.kernels.clblast import Clblast
from ddimcache.bench.kernels.layers import Layer, layer_of
from ddimcache.bench.kernels.shapes import KernelShape
from ddimcache.bench.torch_unet import round_weights
from ddimcache.compiler import pipeline
from ddimcache.compiler.frontend.importer import import_component
from ddimcache.compiler.library import build_library
from ddimcache.compiler.options import LayerChoice
from ddimcache.compiler.target import DeviceProfile
from ddimcache.runtime import devices
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import device_failures, open_device
from ddimcache.runtime.progress import Progress

LARGEST_ERROR = {"float": 1e-3, "int8": 3e-2}
"""Beyond this share of the largest number in PyTorch's answer, ours is wrong and not timed; by what
activations are multiplied as."""

_ENTRY = "run"


@dataclass(frozen=True)
class KernelTime:
    """Medians in seconds of a call: ours and each peer's. ``error`` is of the largest number.

    ``on_device`` is of our kernels alone by an OpenCL device's clock, by which its peaks are measured too:
    without the way to the device and back, for which a step does not wait between two kernels.
    """

    shape: KernelShape
    launches: int
    error: float
    seconds: float
    peers: dict[str, float]
    on_device: float | None = None


class DeviceLayer:
    """A layer compiled and loaded with its weights on a local device."""

    def __init__(
        self, layer: Layer, device: DeviceProfile, host: str, weights: str, activations: str, spec: DeviceSpec
    ) -> None:
        import tvm
        from tvm import relax

        component = import_component("layer", layer.ours, layer.inputs)
        choices = (LayerChoice("*", activations),)
        request = pipeline.Request(component, device, weights, _ENTRY, activations=choices)
        compilation = pipeline.run(request)
        with tempfile.TemporaryDirectory(prefix="ddimcache-") as folder, device_failures(spec):
            path = Path(folder) / "layer.so"
            facts = build_library(compilation.module, device, host, [_ENTRY], path)
            self._device = open_device(spec, device.kind)
            machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), self._device)
            arrays = [tensor.numpy().astype(device.compute_dtype) for tensor in layer.inputs]
            arrays += [compilation.store.array(name) for name in compilation.weight_names]
            tensors = [tvm.runtime.tensor(array, self._device) for array in arrays]
        count = len(layer.inputs)
        self.launches = sum(kernel.calls.get(_ENTRY, 0) for kernel in facts.kernels)
        self._inputs = tensors[:count]
        self._weights = tuple(tensors[count:])
        self._call = machine[_ENTRY]
        self._index = spec.index if spec.kind == "opencl" else None

    def launch(self) -> Any:
        """Run the layer without waiting; return its answer on the device."""
        return self._call(*self._inputs, self._weights)

    def run(self) -> None:
        """Run the layer and wait for it."""
        self.launch()
        self._device.sync()

    def seconds_on_device(self, blocks: turns.Blocks) -> float | None:
        """The median of the seconds that an OpenCL device is at work in a run, over a block of them."""
        if self._index is None:
            return None
        time.sleep(blocks.pause)
        devices.profile_start(self._index)
        start, runs = time.perf_counter(), 0
        while runs == 0 or (time.perf_counter() - start < blocks.seconds and runs < blocks.most):
            self.run()
            runs += 1
        commands = devices.profile_stop_timeline(self._index)
        each = len(commands) // runs
        totals = [
            sum(command.end - command.start for command in commands[first : first + each])
            for first in range(0, each * runs, each)
        ]
        return statistics.median(totals) * 1e-9


def measure(
    shapes: Iterable[KernelShape],
    spec: DeviceSpec,
    device: DeviceProfile,
    host: str,
    *,
    weights: str,
    activations: str,
    peers: tuple[str, ...],
    repeats: int,
    threads: int,
    progress: Progress,
) -> Iterator[KernelTime]:
    """Check and time each of ``shapes``, one after another.

    Parameters
    ----------
    spec, device, host : the local device, its profile, and its host as the compiler names it.
    weights : ``int8``, ``fp16`` or ``fp32``; peers are given the values that are left of them, in float32.
    activations : ``float`` or, with weights of int8, ``int8``; those of peers stay float32.
    peers : ``torch``, ``clblast`` (of matrix products, and on OpenCL) or nothing.
    repeats : rounds of turns, of one call or a fiftieth of a second of them.
    threads : of PyTorch.

    Raises :class:`DeviceError` when an answer is further than :data:`LARGEST_ERROR` from PyTorch's.
    """
    shapes = list(shapes)
    blast = Clblast(spec.index) if "clblast" in peers else None
    with progress.stage("bench", total=len(shapes)) as stage, _threads(threads), torch.inference_mode():
        for number, shape in enumerate(shapes):
            stage.advance(0, f"{shape.family} {shape.text}")
            with torch.inference_mode(False):
                layer = layer_of(shape, number)
                round_weights(layer.native, weights)
                ours = DeviceLayer(layer, device, host, weights, activations, spec)
            with device_failures(spec):
                answer = ours.launch().numpy()
            expected = layer.answer().numpy().reshape(answer.shape)
            what = f"{shape.family} {shape.text}"
            error = checked_error(answer.astype(np.float32), expected, what, spec, LARGEST_ERROR[activations])
            calls: dict[str, Callable[[], object]] = {"ours": ours.run}
            if "torch" in peers:
                calls["torch"] = lambda layer=layer: layer.native(*layer.native_inputs)  # type: ignore[misc]
            if blast is not None and shape.family in ("matmul", "geglu", "conv1x1"):
                calls["clblast"] = blast.product(*_product(shape))
            on_device: list[float] = []
            medians = turns.medians(calls, repeats, turns.KERNELS, partial(_ask, ours, on_device))
            seconds = medians.pop("ours")
            stage.advance(1)
            alone = statistics.median(on_device) if on_device else None
            yield KernelTime(shape, ours.launches, error, seconds, medians, alone)


def _ask(layer: DeviceLayer, on_device: list[float]) -> None:
    seconds = layer.seconds_on_device(turns.KERNELS)
    if seconds is not None:
        on_device.append(seconds)


def _product(shape: KernelShape) -> tuple[int, int, int]:
    """Rows, depth and channels of a shape that is a matrix product."""
    *lines, depth, channels = shape.sizes
    return math.prod(lines), depth, channels


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
