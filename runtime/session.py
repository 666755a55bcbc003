"""One image after another from one bundle on one device.

Latents, noise and cached features stay on the device between steps; the host sends numbers only. The same
class runs in the process of the command line and, behind :mod:`ddimcache.runtime.rpc_server`, on the phone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.manifest import NO_CLIP, Component, Manifest, TensorSpec
from ddimcache.records import to_json
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.devices import DeviceSpec, memory_kind
from ddimcache.runtime.local_device import device_failures, open_device, peak_bytes
from ddimcache.runtime.sampler import Step, schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_SEED = 2**63 - 1
MOST_STEPS = 1000


def initial_latents(seed: int, spec: TensorSpec) -> NDArray[np.float32]:
    """Return the noise of a seed, float32 of unit variance: the same bytes on every machine."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal(spec.shape, dtype=np.float32)


class LoadedComponent:
    """A library of the bundle with its weights on the device."""

    def __init__(self, bundle: Bundle, name: str, device: Any) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        component = bundle.manifest.components[name]
        library_path = bundle.path(component.library)
        try:
            self.library = tvm.runtime.load_module(str(library_path))
            with memory_kind("weights"):  # constants of the library
                self._machine = VirtualMachine(self.library, device)
            self._functions = {function: self._machine[function] for function in component.functions}
        except (RuntimeError, AttributeError, OSError, ValueError, TypeError) as error:
            host = bundle.manifest.host
            raise BundleError(
                f"cannot be loaded: {_last_line(error)}",
                where=library_path,
                remedy=f"it was compiled for host {host} and device {bundle.manifest.device_kind}; see "
                "`ddimcache doctor`",
            ) from error
        with memory_kind("weights"):
            arrays = _read_weights(bundle, component)
            self._parameters = tvm.runtime.convert([tvm.runtime.tensor(array, device) for array in arrays])

    def call(self, function: str, *arguments: Any) -> Any:
        """Run a function of the component with its weights."""
        return self._functions[function](*arguments, self._parameters)

    def kernel(self, name: str) -> Any:
        """Return a plain device kernel of the library (it lives in a module that the library imports)."""
        return self.library.get_function(name, query_imports=True)


def _read_weights(bundle: Bundle, component: Component) -> list[NDArray[Any]]:
    from safetensors import SafetensorError, safe_open

    path = bundle.path(component.weights_file)
    arrays = []
    try:
        with safe_open(path, framework="numpy") as weights:
            names = set(weights.keys())
            expected = {weight.name for weight in component.weights}
            for name in sorted(names ^ expected):
                side = "is not in the manifest" if name in names else "is in the manifest but not in the file"
                raise BundleError(f"weight {name!r} {side}", where=path)
            for weight in component.weights:
                array = weights.get_tensor(weight.name)
                if TensorSpec(array.shape, array.dtype.name) != weight.spec:
                    raise BundleError(
                        f"weight {weight.name!r} is {array.dtype.name}{list(array.shape)}, the manifest says "
                        f"{weight.dtype}{list(weight.shape)}",
                        where=path,
                    )
                arrays.append(array)
    except SafetensorError as error:
        raise BundleError(f"no safetensors file: {error}", where=path) from error
    return arrays


class Session:
    """A bundle loaded on a device.

    Call :meth:`encode` for the prompt (and, where guidance is above 1, for the negative prompt), then
    :meth:`start`, :meth:`run` until every step is done, and :meth:`decode`. Components are loaded when they
    are first used. Not for two threads at once.

    Parameters
    ----------
    bundle : an opened bundle.
    device : a local device of the kind that the bundle was compiled for.

    Raises :class:`DeviceError` when the device is of another kind or absent, :class:`BundleError` when a
    library or weight file does not fit the manifest.
    """

    def __init__(self, bundle: Bundle, device: DeviceSpec) -> None:
        self.bundle = bundle
        self._spec = device
        self._device = open_device(device, bundle.manifest.device_kind)
        self._loaded: dict[str, LoadedComponent] = {}
        self._contexts: dict[bool, Any] = {}
        self._steps: list[Step] = []
        self._first_of_kind: dict[bool, int] = {}
        self._done = 0
        self._guidance = 1.0
        self._features: dict[bool, Any] = {}
        self._latents: Any = None
        self._spare: Any = None
        self._timestep = self._empty(TensorSpec((1,), "float32"))
        self._began = time.perf_counter()
        self._finished: float | None = None
        self._seconds = {"text": 0.0, "denoise": 0.0, "decode": 0.0}
        self._step_seconds: dict[bool, list[float]] = {True: [], False: []}

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    def encode(self, ids: Sequence[int], *, negative: bool = False) -> None:
        """Encode the token ids of the prompt, or of the negative prompt, and keep the context on the device.

        ``ids`` has exactly the length L that the text encoder was compiled for.
        """
        self._begin_image()
        length = self.manifest.context.shape[1]
        if len(ids) != length:
            raise UsageError(f"{len(ids)} token ids, the text encoder takes {length}", where="encode")
        with device_failures(self._spec):
            encoder = self._component("text_encoder")
            start = time.perf_counter()
            context = encoder.call("encode", self._upload(np.asarray([ids], dtype=np.int32)))
            if self.manifest.batch > 1:
                context = self._upload(np.repeat(context.numpy(), self.manifest.batch, axis=0))
            self._device.sync()
        self._seconds["text"] += time.perf_counter() - start
        self._contexts[negative] = context

    def start(self, noise: int | bytes, steps: int, cache_interval: int, guidance: float) -> int:
        """Begin an image and return the number of steps, without running one.

        Parameters
        ----------
        noise : a seed (0 … 2⁶³ − 1), or the initial latents as the bytes of float32 [B, 4, h, w],
            little-endian, unit variance.
        steps : DDIM steps, 1 … 1000.
        cache_interval : the feature of U₂ is computed on one step and reused on the next
            ``cache_interval`` − 1; 1 is no cache.
        guidance : scale of classifier-free guidance; at 1 or below the UNet runs once a step, without the
            negative prompt.
        """
        check_sampling(steps, cache_interval, guidance)
        self._begin_image()
        guided = guidance > 1
        for negative in (False, True)[: 1 + guided]:
            if negative not in self._contexts:
                raise UsageError(f"encode the {'negative ' * negative}prompt first", where="start")
        spec = self.manifest.latents
        if isinstance(noise, bytes):
            if len(noise) != spec.bytes:
                raise UsageError(f"{len(noise)} bytes, expected {spec.bytes}", where="initial latents")
            latents = np.frombuffer(noise, dtype="<f4").astype(np.float32).reshape(spec.shape)
            if not np.isfinite(latents).all():
                raise UsageError("holds numbers that are not finite", where="initial latents")
        else:
            if not 0 <= noise <= LARGEST_SEED:
                raise UsageError(f"{noise} is outside 0 … 2⁶³ − 1", where="seed")
            latents = initial_latents(noise, spec)
        if self.manifest.sampler.init_noise_sigma != 1:
            latents = latents * np.float32(self.manifest.sampler.init_noise_sigma)
        self._steps = schedule(to_json(self.manifest.sampler), steps, cache_interval)
        self._first_of_kind = {step.is_full: step.index for step in reversed(self._steps)}
        with device_failures(self._spec):
            self._component("unet")
            self._latents, self._spare = self._upload(latents), self._empty(spec)
        self._done, self._guidance, self._features = 0, guidance, {}
        self._seconds.update(denoise=0.0, decode=0.0)
        self._step_seconds = {True: [], False: []}
        return len(self._steps)

    def run(self, count: int) -> int:
        """Run up to ``count`` more steps and return how many are done, all of ``start``'s at the end."""
        if self._latents is None:
            raise UsageError("start an image first", where="run")
        for (is_full, _), group in groupby(self._steps[self._done : self._done + count], self._timed_apart):
            steps = list(group)
            start = time.perf_counter()
            with device_failures(self._spec):
                for step in steps:
                    self._run_step(step)
                # Waited for only here, where steps of another kind follow, so that each kind is timed.
                self._device.sync()
            elapsed = time.perf_counter() - start
            self._done += len(steps)
            self._seconds["denoise"] += elapsed
            self._step_seconds[is_full] += [elapsed / len(steps)] * len(steps)
        return self._done

    def latents(self) -> bytes:
        """Return the present latents, float32 [B, 4, h, w], little-endian row-major bytes."""
        if self._latents is None:
            raise UsageError("start an image first", where="latents")
        return self._latents.numpy().astype("<f4").tobytes()

    def decode(self) -> bytes:
        """Decode the present latents and return uint8 [B, H, W, 3], row-major bytes.

        Raises :class:`DeviceError` when the latents hold numbers that are not finite: there is no picture.
        """
        if not np.isfinite(np.frombuffer(self.latents(), dtype="<f4")).all():
            raise DeviceError(
                f"the latents after {self._done} steps hold numbers that are not finite",
                where=str(self._spec),
                remedy="a kernel overflowed: compile with --weights fp32 and compare, and report the device",
            )
        with device_failures(self._spec):
            decoder = self._component("vae_decoder")
            start = time.perf_counter()
            pixels = decoder.call("decode", self._latents).numpy().tobytes()
        self._finished = time.perf_counter()
        self._seconds["decode"] = self._finished - start
        return pixels

    def timings(self) -> dict[str, Any]:
        """Return seconds of the image so far, and of a step of each kind.

        ``seconds`` has ``text``, ``denoise``, ``decode``, which count computing only, and ``total``, the time
        since the first call for this image (for the first one since the session was opened), which includes
        loading libraries and weights. A step's time is the
        median over the steps of its kind but the first, which may compile kernels; of the first where it is
        the only one, and None without any. Each is measured on a device that was waited for.
        """
        end = self._finished if self._finished is not None else time.perf_counter()
        full, cached = self._step_seconds[True], self._step_seconds[False]
        return {
            "seconds": {**self._seconds, "total": end - self._began},
            "full_steps": len(full),
            "cached_steps": len(cached),
            "seconds_full_step": _typical(full),
            "seconds_cached_step": _typical(cached),
        }

    @property
    def peak_bytes(self) -> int:
        """The most memory in use at once: on the device where that is counted, of the process elsewhere."""
        return peak_bytes(self._spec)

    def close(self) -> None:
        """Give the memory on the device back; the session is of no use afterwards."""
        self._loaded.clear()
        self._contexts.clear()
        self._features.clear()
        self._latents = self._spare = self._timestep = None

    def _timed_apart(self, step: Step) -> tuple[bool, bool]:
        """What divides the steps into groups: their kind, and the first of a kind from the others."""
        return step.is_full, step.index == self._first_of_kind[step.is_full]

    def _begin_image(self) -> None:
        """Start the clock again when the last image is done."""
        if self._finished is not None:
            self._began, self._finished = time.perf_counter(), None
            self._seconds = dict.fromkeys(self._seconds, 0.0)

    def _run_step(self, step: Step) -> None:
        unet = self._component("unet")
        unet.kernel("set_timestep")(self._timestep, float(step.timestep))
        coefficients = step.coefficients
        numbers = (coefficients.p, coefficients.q, coefficients.r, coefficients.s)
        clip = NO_CLIP if coefficients.clip is None else coefficients.clip
        tail = (*numbers, clip, coefficients.a, coefficients.b)
        if self._guidance > 1:
            noise_without = self._predict(unet, step, negative=True)
            noise_with = self._predict(unet, step, negative=False)
            unet.kernel("guide_and_step")(
                self._latents, noise_without, noise_with, self._spare, float(self._guidance), *tail
            )
        else:
            noise = self._predict(unet, step, negative=False)
            unet.kernel("step")(self._latents, noise, self._spare, *tail)
        self._latents, self._spare = self._spare, self._latents

    def _predict(self, unet: LoadedComponent, step: Step, *, negative: bool) -> Any:
        context = self._contexts[negative]
        if step.is_full:
            noise, self._features[negative] = unet.call("full", self._latents, self._timestep, context)
            return noise
        return unet.call("cached", self._latents, self._timestep, context, self._features[negative])

    def _component(self, name: str) -> LoadedComponent:
        if name not in self._loaded:
            self._loaded[name] = LoadedComponent(self.bundle, name, self._device)
        return self._loaded[name]

    def _upload(self, array: NDArray[Any]) -> Any:
        import tvm

        return tvm.runtime.tensor(array, self._device)

    def _empty(self, spec: TensorSpec) -> Any:
        import tvm

        return tvm.runtime.empty(spec.shape, spec.dtype, self._device)


def check_sampling(steps: int, cache_interval: int, guidance: float) -> None:
    """Raise :class:`UsageError` naming the option when a number is outside what a sampler takes."""
    if not 1 <= steps <= MOST_STEPS:
        raise UsageError(f"{steps} is outside 1 … {MOST_STEPS}", where="--steps")
    if cache_interval < 1:
        raise UsageError(f"{cache_interval} is below 1", where="--cache-interval", remedy="1 is no cache")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise UsageError(f"{guidance} is no finite number from 0 up", where="--guidance")


def _typical(seconds: list[float]) -> float | None:
    return statistics.median(seconds[1:] or seconds) if seconds else None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
