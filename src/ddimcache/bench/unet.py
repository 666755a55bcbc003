"""Times one full and one cached call of a bundle's UNet on a device of this machine, in turns with its peers.

A cached call is given the features that the full call has just left, so both must give what PyTorch gives for
the whole UNet with the same rounded weights. No time is taken before they do. Where the bundle guides in one
call, these calls must give what two of the others give, and are timed in the same turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddimcache.bench import turns
from ddimcache.bench.answer import checked_error, relative_error
from ddimcache.bench.openvino_unet import PRECISIONS, OpenVinoUnet
from ddimcache.bench.torch_unet import TorchUnet
from ddimcache.compiler.options import rounds_activations
from ddimcache.errors import DeviceError
from ddimcache.manifest import GUIDED, TIMES_AT_ONCE, Manifest
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.component import LoadedComponent
from ddimcache.runtime.devices import DeviceSpec, list_devices
from ddimcache.runtime.local_device import device_failures, open_device
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import Progress

LARGEST_ERROR = 1e-2
"""Beyond this share of the largest number in PyTorch's answer, ours is wrong and not timed."""

LARGEST_ROUNDED_ERROR = 1e-1
"""The same where activations are rounded to int8, 255 numbers a row in each of hundreds of layers."""

PEER_ERROR = {"f32": 1e-2, "bf16": 0.2}
"""The same of a peer by the dtype it computes in: bfloat16 has 8 bits, and a UNet hundreds of layers."""

_SEED = 0


@dataclass(frozen=True)
class UnetInputs:
    """What both sides are given: latents [1, C, h, w] and context [1, L, D] float32, and the timestep."""

    latents: NDArray[np.float32]
    context: NDArray[np.float32]
    timestep: int


@dataclass(frozen=True)
class UnetMeasurement:
    """Medians in seconds of a full and a cached call and of each peer's full call, and the largest error.

    ``seconds_once`` has the functions that run before the steps: once an image, or once for 64 steps.
    ``seconds_guided`` has ``full`` and ``cached`` for both prompts of guidance, where they can be one call.
    """

    seconds_full: float
    seconds_cached: float
    seconds_once: dict[str, float]
    error: float
    peers: dict[str, float]
    seconds_guided: dict[str, float]


class DeviceUnet:
    """The UNet of a bundle on a local device.

    Raises :class:`DeviceError` when the device is of another kind than the bundle or absent,
    :class:`BundleError` when the library cannot be loaded here.
    """

    def __init__(self, bundle: Bundle, spec: DeviceSpec) -> None:
        self._spec = spec
        self._device = open_device(spec, bundle.manifest.device_kind)
        with device_failures(spec):
            self._component = LoadedComponent(bundle, "unet", spec)

    def place(self, inputs: UnetInputs, manifest: Manifest) -> tuple[Any, ...]:
        """Return on the device the latents, and what the UNet takes of the timestep and of the context."""
        import tvm

        latents, time, context = self._uploaded(inputs, manifest)
        with device_failures(self._spec):
            once = {name: call() for name, call in self.once(inputs, manifest).items()}
            if "embed_time" in once:
                time = tvm.runtime.tensor(once["embed_time"].numpy()[:1], self._device)
            return latents, time, once.get("project_context", context)

    def place_both(self, negative: UnetInputs, inputs: UnetInputs, manifest: Manifest) -> tuple[Any, ...]:
        """As :meth:`place`, with the contexts of both, that of ``negative`` first."""
        import tvm

        latents, time, context = self.place(inputs, manifest)
        _, _, other = self.place(negative, manifest)
        with device_failures(self._spec):
            both = np.concatenate([other.numpy(), context.numpy()])
            return latents, time, tvm.runtime.tensor(both, self._device)

    def once(self, inputs: UnetInputs, manifest: Manifest) -> dict[str, Callable[[], Any]]:
        """Return what runs before the steps, by function; each call waits for its end."""
        import tvm

        functions = manifest.components["unet"].functions
        _, _, context = self._uploaded(inputs, manifest)
        with device_failures(self._spec):
            times = tvm.runtime.tensor(np.full(TIMES_AT_ONCE, inputs.timestep, np.float32), self._device)
        arguments = {"embed_time": times, "project_context": context}

        def calling(name: str) -> Callable[[], Any]:
            def call() -> Any:
                with device_failures(self._spec):
                    result = self._component.call(name, arguments[name])
                    self._device.sync()
                return result

            return call

        return {name: calling(name) for name in arguments if name in functions}

    def _uploaded(self, inputs: UnetInputs, manifest: Manifest) -> tuple[Any, ...]:
        import tvm

        arrays = (
            inputs.latents,
            np.asarray([inputs.timestep], np.float32),
            inputs.context.astype(manifest.context.dtype),
        )
        with device_failures(self._spec):
            return tuple(tvm.runtime.tensor(array, self._device) for array in arrays)

    def full(self, inputs: tuple[Any, ...], ending: str = "") -> tuple[Any, tuple[Any, ...]]:
        """Run the whole UNet and wait for it; return noise [1, C, h, w] float32 and the features.

        With ``ending`` :data:`GUIDED` it is run for both prompts of :meth:`place_both`, noise [2, C, h, w].
        """
        with device_failures(self._spec):
            noise, *features = self._component.call("full" + ending, *inputs)
            self._device.sync()
        return noise, tuple(features)

    def cached(self, inputs: tuple[Any, ...], features: tuple[Any, ...], ending: str = "") -> Any:
        """Run what lies outside the cut and wait for it; return noise as :meth:`full`."""
        with device_failures(self._spec):
            noise = self._component.call("cached" + ending, *inputs, *features)
            self._device.sync()
        return noise

    def launch_cached(self, inputs: tuple[Any, ...], features: tuple[Any, ...]) -> Any:
        """As :meth:`cached` for one prompt, without waiting; errors are TVM's."""
        return self._component.call("cached", *inputs, *features)


def largest_error(manifest: Manifest) -> float:
    """Return the relative error above which a bundle's UNet is wrong."""
    return LARGEST_ROUNDED_ERROR if rounds_activations(manifest.built_with) else LARGEST_ERROR


def random_inputs(manifest: Manifest) -> UnetInputs:
    """Return normal noise for latents and context, the same each time, and the middle timestep.

    The context is rounded to the bundle's dtype, so that PyTorch is given the same numbers.
    """
    generator = np.random.Generator(np.random.PCG64(_SEED + 1))
    context = generator.standard_normal(manifest.context.shape, dtype=np.float32)
    rounded = context.astype(manifest.context.dtype).astype(np.float32)
    latents = noise(_SEED, manifest.latents.shape)
    return UnetInputs(latents, rounded, manifest.sampler.num_train_timesteps // 2)


def core_count(spec: DeviceSpec) -> int:
    """Return how many cores of this machine's CPU the device may use; for a GPU, how many there are."""
    if spec.kind == "opencl":
        device = list_devices()[spec.index]
        if device.type == "cpu":
            return device.compute_units
    else:
        import tvm

        return int(tvm.runtime.num_threads())
    return len(os.sched_getaffinity(0))


def measure(
    bundle: Bundle,
    spec: DeviceSpec,
    model: Path,
    *,
    peers: tuple[str, ...],
    repeats: int,
    threads: int,
    progress: Progress,
) -> UnetMeasurement:
    """Check the UNet of ``bundle``, compiled at batch 1, against PyTorch, then time it and peers in turns.

    Parameters
    ----------
    bundle, spec : what runs, and the local device.
    model : the diffusers folder that the bundle was compiled from.
    peers : what to time as well: ``torch``, ``openvino``, ``openvino-bf16``; once its answer is right too.
    repeats : how often each kind is timed: one call, or a tenth of a second of calls where one is shorter.
    threads : of the peers.

    Raises :class:`DeviceError` when the largest error is above :func:`largest_error`, and as
    :class:`DeviceUnet`.
    """
    inputs = random_inputs(bundle.manifest)
    with progress.stage("bench", total=2 + repeats) as stage, TorchUnet(model, bundle, threads) as torch_unet:
        expected = torch_unet(inputs.latents, inputs.timestep, inputs.context)
        stage.advance(1, "PyTorch")
        unet = DeviceUnet(bundle, spec)
        placed = unet.place(inputs, bundle.manifest)
        largest = largest_error(bundle.manifest)
        error, features = _checked(unet, placed, expected, spec, largest)
        stage.advance(1, "check")
        calls: dict[str, Callable[[], object]] = {"full": lambda: unet.full(placed)}
        calls |= _peer_calls(peers, torch_unet, inputs, expected, threads)
        calls["cached"] = lambda: unet.cached(placed, features)
        once = unet.once(inputs, bundle.manifest)
        calls |= once
        if bundle.manifest.guides_in_one_call:
            calls |= _guided_calls(unet, inputs, bundle.manifest, spec, largest)
        seconds = turns.medians(calls, repeats, turns.STEPS, lambda: stage.advance(1, "timed calls"))
    return UnetMeasurement(
        seconds["full"],
        seconds["cached"],
        {name: seconds[name] for name in once},
        error,
        {peer: seconds[peer] for peer in peers},
        {name: seconds[name + GUIDED] for name in ("full", "cached") if name + GUIDED in seconds},
    )


def check(bundle: Bundle, spec: DeviceSpec, model: Path, *, threads: int, progress: Progress) -> float:
    """Return the larger relative error of a full and a cached call against PyTorch; arguments and errors as
    of :func:`measure`."""
    inputs = random_inputs(bundle.manifest)
    with progress.stage("check", total=2) as stage:
        with TorchUnet(model, bundle, threads) as torch_unet:
            expected = torch_unet(inputs.latents, inputs.timestep, inputs.context)
        stage.advance(1, "PyTorch")
        unet = DeviceUnet(bundle, spec)
        placed = unet.place(inputs, bundle.manifest)
        error, _ = _checked(unet, placed, expected, spec, largest_error(bundle.manifest))
        stage.advance(1, str(spec))
    return error


def _checked(
    unet: DeviceUnet, placed: tuple[Any, ...], expected: NDArray[np.float32], spec: DeviceSpec, largest: float
) -> tuple[float, tuple[Any, ...]]:
    noise, features = unet.full(placed)
    answers = {"full": noise.numpy(), "cached": unet.cached(placed, features).numpy()}
    errors = [
        checked_error(answer, expected, f"the {name} UNet call", spec, largest)
        for name, answer in answers.items()
    ]
    return max(errors), features


def _guided_calls(
    unet: DeviceUnet, inputs: UnetInputs, manifest: Manifest, spec: DeviceSpec, largest: float
) -> dict[str, Callable[[], object]]:
    """The calls for both prompts, once they give what a call for each gives."""
    negative = replace(inputs, context=-inputs.context)
    pair = unet.place_both(negative, inputs, manifest)
    alone = [unet.full(unet.place(each, manifest))[0].numpy() for each in (negative, inputs)]
    noise, features = unet.full(pair, GUIDED)
    answers = {"full": noise.numpy(), "cached": unet.cached(pair, features, GUIDED).numpy()}
    for name, answer in answers.items():
        where = f"the {name} UNet call for both prompts"
        checked_error(answer, np.concatenate(alone), where, spec, largest)
    return {
        "full" + GUIDED: lambda: unet.full(pair, GUIDED),
        "cached" + GUIDED: lambda: unet.cached(pair, features, GUIDED),
    }


def _peer_calls(
    peers: tuple[str, ...],
    torch_unet: TorchUnet,
    inputs: UnetInputs,
    expected: NDArray[np.float32],
    threads: int,
) -> dict[str, Callable[[], object]]:
    arguments = (inputs.latents, inputs.timestep, inputs.context)
    calls: dict[str, Callable[[], object]] = {}
    for peer in peers:
        if peer == "torch":
            calls[peer] = lambda: torch_unet(*arguments)
            continue
        compiled = OpenVinoUnet(torch_unet.network, *arguments, peer, threads)
        error = relative_error(compiled(*arguments), expected)
        if not error <= PEER_ERROR[PRECISIONS[peer]]:
            raise DeviceError(
                f"its answer is {error:.3g} of the largest number away from PyTorch's",
                where=f"--peer {peer}",
                remedy="leave it out",
            )
        calls[peer] = lambda compiled=compiled: compiled(*arguments)  # type: ignore[misc]
    return calls
