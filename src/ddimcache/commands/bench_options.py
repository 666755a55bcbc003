"""What the verbs of ``ddimcache bench`` share: options, each said once, and the bundle that they measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import image_options
from ddimcache.commands.terminal import parse_size, say
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.commands.choose import ChosenDevice
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.devices import DeviceSpec
    from ddimcache.runtime.progress import Progress

EMBEDDED = "embedded"
STAND_INS = ("sd15", "sd21")

Model = Annotated[
    str,
    typer.Option(
        help="Diffusers folder or bundle; embedded; or a size by name: sd15 and sd21 have random "
        "weights, written into the cache folder the first time.",
        metavar="DIR|BUNDLE|embedded|sd15|sd21",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        help="For a bundle: the diffusers folder it was compiled from, which its answer is checked "
        "against. The embedded model and sizes by name are found without.",
        metavar="DIR",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="opencl, opencl:1 or llvm. Default: what a bundle was compiled for; for a folder the first "
        "OpenCL device, else llvm."
    ),
]
Weights = image_options.Weights
Cut = image_options.Cut
Size = image_options.Size


@dataclass(frozen=True)
class Subject:
    """A bundle of batch 1 at one of its sizes, the diffusers folder it was compiled from, and the device."""

    bundle: Bundle
    source: Path
    device: str
    spec: DeviceSpec


def find_subject(
    model: str,
    reference: Path | None,
    device: str | None,
    weights: str | None,
    cut: int | None,
    size: str | None,
    bars: Progress,
) -> Subject:
    """Open or compile what the options name; raises :class:`UsageError` naming the one that does not fit."""
    from ddimcache.commands.choose import choose_device, load_compiler, local_device
    from ddimcache.runtime.bundle import is_bundle

    if device is not None:
        local_device(device)  # refused before anything is written or compiled
    load_compiler()
    folder = find_model_of(model, bars)
    named: dict[str, Any] = {"weights": weights, "cut": cut}
    choices = {name: value for name, value in named.items() if value is not None}
    width, height = parse_size(size)
    if is_bundle(folder):
        bundle, source = _open(folder, reference, choices, (width, height) if width else None)
        chosen = choose_device(device, bundle.manifest.device_kind)
    else:
        if reference is not None:
            raise UsageError("is for a bundle; a folder is its own", where="--reference")
        if width:
            choices |= {"width": width, "height": height}
        chosen = choose_device(device)
        bundle, source = compile_for(folder, choices, chosen, bars), folder
    return Subject(bundle, source, chosen.name, local_device(chosen.name))


def find_model_of(name: str, bars: Progress) -> Path:
    """Return the folder that ``--model`` means; that of a stand-in is written the first time."""
    from ddimcache.commands.choose import check_draws_from_text, find_model

    if name in STAND_INS:
        return _stand_in(name, bars)
    folder = find_model(None if name == EMBEDDED else Path(name))
    check_draws_from_text(folder)
    return folder


def _stand_in_folder(name: str) -> Path:
    from ddimcache.runtime.files import cache_folder

    return cache_folder() / "stand-ins" / name


def _stand_in(name: str, bars: Progress) -> Path:
    """Return a model of a published size with random weights, written the first time."""
    from ddimcache.models.stand_in import write_stand_in

    folder = _stand_in_folder(name)
    if not folder.is_dir():
        say(f"writing {name} with random weights; it is kept in {folder}")
        write_stand_in(name, folder, progress=bars)
    return folder


def _open(
    folder: Path, reference: Path | None, choices: dict[str, Any], size: tuple[int, int] | None
) -> tuple[Bundle, Path]:
    """Return a finished bundle and the model folder that it was compiled from."""
    from ddimcache.runtime.bundle import open_bundle

    bundle = open_bundle(folder).at(size)
    manifest = bundle.manifest
    found = {"weights": manifest.weights, "cut": manifest.cut, "batch": manifest.batch}
    for name, value in {"batch": 1, **choices}.items():
        if found[name] != value:
            raise UsageError(
                f"{folder} was compiled with {name} {found[name]}, not {value}",
                where="--model" if name == "batch" else f"--{name}",
                remedy=f"compile the model again with --{name} {value}",
            )
    return bundle, _reference(bundle, reference)


def _reference(bundle: Bundle, given: Path | None) -> Path:
    from ddimcache.commands.choose import DEFAULT_MODEL, find_model
    from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder

    manifest = bundle.manifest
    candidates = [DEFAULT_MODEL, *map(_stand_in_folder, STAND_INS)]
    if given is not None:
        candidates = [find_model(given)]
    for folder in candidates:
        # The sums of gigabytes take a while: only of folders that could be meant.
        meant = given is not None or (folder.is_dir() and folder.resolve().name == manifest.model)
        if meant and load_pipeline_folder(folder).fingerprint() == manifest.model_fingerprint:
            return folder
    if given is not None:
        raise UsageError(f"{bundle.folder} was not compiled from {given}", where="--reference")
    raise UsageError(
        f"the answer of {bundle.folder} cannot be checked without the model that it was compiled from",
        where="--reference",
        remedy=f"name the diffusers folder of {manifest.model!r}",
    )


def compile_for(folder: Path, choices: dict[str, Any], device: ChosenDevice, bars: Progress) -> Bundle:
    """Return the model compiled for a device, or what is kept of it from before."""
    from ddimcache.commands.choose import compiled
    from ddimcache.compiler.options import CompileOptions

    return compiled(folder, CompileOptions(**device.compile_choices, **choices), bars)
