"""Finds the device, the model and the bundle that a command line means."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddimcache.commands.terminal import cleaning_up, say
from ddimcache.errors import BundleError, UsageError
from ddimcache.models.shapes import FINGERPRINT
from ddimcache.runtime.bundle import Bundle, is_bundle, open_bundle
from ddimcache.runtime.devices import DeviceSpec, describe_missing, list_devices, parse_device
from ddimcache.runtime.image import ImageSession, MemoryChoice
from ddimcache.runtime.local_device import device_name, host_triple, keep_programs, open_device
from ddimcache.runtime.profiler import LocalProfiler, Profiler
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.session import Session

if TYPE_CHECKING:
    from ddimcache.compiler.options import CompileOptions

DEFAULT_MODEL = Path(__file__).absolute().parent.parent / "models" / "shapes" / "weights"


@dataclass(frozen=True)
class ChosenDevice:
    """A device here or behind RPC: ``target``, ``host`` and ``limits`` are for the compiler, ``open`` loads a
    bundle, ``profiler`` times what it does, ``keep_programs`` keeps what its driver compiled for the next
    start."""

    name: str
    target: str
    host: str
    open: Callable[[Bundle, Progress, MemoryChoice], ImageSession]
    profiler: Callable[[], Profiler]
    keep_programs: Callable[[int], int]
    close: Callable[[], None]
    limits: tuple[str, ...] = ()

    @property
    def compile_choices(self) -> dict[str, Any]:
        """What :class:`CompileOptions` takes of the device."""
        return {"target": self.target, "host": self.host, "limits": self.limits}


def is_embedded(folder: Path | None) -> bool:
    """Whether a model folder or bundle is of the model that ships with the package, as no folder is.

    Raises :class:`BundleError` for a bundle whose manifest is wrong.
    """
    if folder is None:
        return True
    if is_bundle(folder):
        return open_bundle(folder, sums=False).manifest.model_fingerprint == FINGERPRINT
    return folder.resolve() == DEFAULT_MODEL.resolve()


def inpaints(folder: Path) -> bool:
    """Whether a model folder or bundle is one that fills in a part of a picture.

    False for a folder that cannot be read: whoever reads the whole of it says what is wrong. Raises
    :class:`BundleError` for a bundle whose manifest is wrong.
    """
    if is_bundle(folder):
        return open_bundle(folder, sums=False).manifest.inpaints
    try:
        config = json.loads((folder / "unet" / "config.json").read_bytes())
        return bool(config["in_channels"] > config["out_channels"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_draws_from_text(folder: Path, where: str = "--model") -> None:
    """Raise :class:`UsageError` for a model folder or bundle that draws nothing without a picture."""
    if inpaints(folder):
        raise UsageError(
            f"{folder} fills in a part of a picture, and there is none here",
            where=where,
            remedy="take another model; this one draws with `ddimcache generate --image FILE --mask FILE`",
        )


def choose_device(text: str | None, kind: str | None = None) -> ChosenDevice:
    """Return the device that ``--device`` names.

    Without a name it is the first of ``kind``; without that too the first OpenCL device, else the CPU.

    Raises :class:`UsageError` for a bad name, :class:`RemoteError` for a server that does not answer.
    """
    if text is not None and text.startswith("rpc:"):
        from ddimcache.runtime.rpc import connect
        from ddimcache.runtime.rpc_profiler import RemoteProfiler

        remote = connect(text)
        name = f"{remote.address} ({remote.info.device})"
        target = target_of(remote.info.kind, remote.info.device_name)
        profiler: Callable[[], Profiler] = partial(RemoteProfiler, remote)
        return ChosenDevice(
            name, target, remote.info.host, remote.open, profiler, remote.keep_programs, remote.close
        )
    spec = local_device(text) if text is not None else default_device(kind)
    open_device(spec, spec.kind)  # an absent device is told before anything is compiled for it
    target = target_of(spec.kind, device_name(spec))
    opener, profiler = partial(_open_here, spec), partial(LocalProfiler, spec)
    keeper = partial(keep_programs, spec)
    limits = tuple(limits_at_hand(target, None, spec.index)) if spec.kind == "opencl" else ()
    return ChosenDevice(str(spec), target, host_triple(), opener, profiler, keeper, lambda: None, limits)


def target_of(kind: str, name: str) -> str:
    """Return the device profile to compile for; Adreno's generations are close enough to share the 740's."""
    return "adreno-740" if kind == "opencl" and "adreno" in name.lower() else kind


def local_device(text: str) -> DeviceSpec:
    """Return the device of this machine that a name means; raises :class:`UsageError`."""
    try:
        spec = parse_device(text)
    except ValueError as error:
        raise UsageError(str(error), where="--device") from error
    if spec.kind == "rpc":
        raise UsageError("is not a device of this machine", where="--device", remedy="take opencl or llvm")
    return spec


def _open_here(spec: DeviceSpec, bundle: Bundle, _: Progress, memory: MemoryChoice) -> ImageSession:
    return Session(bundle, spec, memory)


def default_device(kind: str | None) -> DeviceSpec:
    """Return the first device of a kind; without one the first OpenCL device, else the CPU."""
    if kind is not None:
        return DeviceSpec(kind)
    if describe_missing() is None:
        return DeviceSpec("opencl")
    say("no OpenCL device is there, running on the CPU by LLVM (`ddimcache doctor` says why)")
    return DeviceSpec("llvm")


def limits_at_hand(target: str, host: str | None, index: int = 0) -> list[str]:
    """Return the limits of an OpenCL device of this machine that are lower than those of ``target``.

    And say so, where there are any.

    Nothing where the target is of a certain device, or the bundle is for another ``host``.
    """
    if target != "opencl" or host not in (None, host_triple()) or describe_missing() is not None:
        return []
    from ddimcache.compiler.target import profile

    device, known = list_devices()[index], profile(target)
    limits = {
        "max_threads": device.max_work_group_size,
        "max_local_memory": device.local_mem_bytes,
        "max_allocation": device.max_alloc_bytes,
        "max_argument_bytes": device.max_kernel_argument_bytes,
    }
    lower = [f"{name}={number}" for name, number in limits.items() if 0 < number < getattr(known, name)]
    if lower:
        say(f"{device.name} takes less than target {target}: {', '.join(lower)}")
    return lower


def find_model(path: Path | None) -> Path:
    """Return the model or bundle folder; raises :class:`UsageError` when it is neither."""
    model = DEFAULT_MODEL if path is None else path
    if is_bundle(model) or (model / "model_index.json").is_file():
        return model
    if path is None:
        raise UsageError("the embedded model is not installed", where=model, remedy="name one with --model")
    if not model.is_dir():
        raise UsageError(
            f"{model} is not a folder", where="--model", remedy="name a diffusers folder or a bundle"
        )
    raise UsageError(
        f"{model} holds neither model_index.json (a diffusers folder) nor manifest.json (a bundle)",
        where="--model",
        remedy="save a pipeline there with `pipeline.save_pretrained(folder)`, or compile one",
    )


def load_compiler() -> Callable[[Path, Path, CompileOptions, Progress], object]:
    """Return ``compile_pipeline``, which then also tells which tuning records it skipped.

    Raises :class:`UsageError` where only the runtime is installed.
    """
    try:
        from ddimcache.compiler.build import compile_pipeline
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ddimcache"):
            raise
        raise UsageError(
            f"package {error.name} is missing",
            where="compiling a model",
            remedy="pip install 'ddimcache[compile]', or take a bundle that was compiled elsewhere",
        ) from error

    def compile_and_tell(model: Path, out: Path, options: CompileOptions, progress: Progress) -> object:
        with cleaning_up():
            report = compile_pipeline(model, out, options, progress)
        for line in report.skipped_records:
            say(line)
        return report

    return compile_and_tell


def compiled(model: Path, options: CompileOptions, progress: Progress) -> Bundle:
    """Return the kept bundle of a model folder, compiling it when there is none yet.

    Raises :class:`UsageError` where it has to be compiled and only the runtime is installed.
    """
    from ddimcache.compiler.cache import kept_bundle

    def compile_to(path: Path) -> None:
        # Only here: diffusers and PyTorch take seconds to import, and a kept bundle needs neither.
        compile_pipeline = load_compiler()
        say(
            f"compiling {model} for {options.target}, weights {options.weights}; it is kept for the next time"
        )
        compile_pipeline(model, path, options, progress)

    def is_good(path: Path) -> bool:
        try:
            open_bundle(path)
        except BundleError as error:
            say(str(error))
            return False
        return True

    return open_bundle(kept_bundle(model, options, compile_to, is_good, say), sums=False)
