"""The manifest of a bundle, as data: what the compiler writes and the runtime reads.

It lives beside both, because the runtime imports nothing of the compiler. Sizes are in pixels, latent cells
or bytes, as the names say; multiply-accumulates are counted for one call of the UNet at the compiled batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ddimcache.errors import UsageError
from ddimcache.records import Limits

FORMAT_VERSION = 11
MANIFEST_NAME = "manifest.json"
TIMES_AT_ONCE = 64
"""Timesteps that one call of the UNet's ``embed_time`` takes."""
GUIDED = "_guided"
"""What the names of the UNet's functions for both prompts of guidance end in, before a size."""
NO_CLIP = 3.4e38
"""The ``clip`` of a step that clamps nothing: float32's range, to the sampler's kernels."""

Count = Annotated[int, Limits(minimum=0)]
Size = Annotated[int, Limits(minimum=1)]
Sha256 = Annotated[str, Limits(pattern=r"[0-9a-f]{64}", meaning="a sha256 in lower-case hexadecimal")]
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
FILE_PATTERN = rf"{_PART}(/{_PART})*"
FileName = Annotated[
    str, Limits(maximum=200, pattern=FILE_PATTERN, meaning="a plain relative file name inside the bundle")
]
ScalarType = Literal["float32", "float16", "int32", "int8", "uint8"]
WeightsKind = Literal["int8", "int8-g32", "int8-g64", "int8-g128", "fp16", "fp32"]
"""How weights of convolutions and linear layers are stored; ``-g64``: a scale for 64 of them at most."""
ComponentName = Literal["text_encoder", "unet", "vae_decoder", "vae_encoder"]

ITEM_BYTES = {"float32": 4, "float16": 2, "int32": 4, "int8": 1, "uint8": 1}


@dataclass(frozen=True)
class TensorSpec:
    """Shape and scalar type of a dense row-major tensor."""

    shape: tuple[Size, ...]
    dtype: ScalarType

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count * ITEM_BYTES[self.dtype]

    def for_both(self) -> TensorSpec:
        """Return the spec with twice the leading extent: the negative prompt's half, then the prompt's."""
        lead, *sides = self.shape
        return TensorSpec((2 * lead, *sides), self.dtype)


@dataclass(frozen=True)
class NamedTensor:
    """A weight: its name in the component's safetensors file, shape and scalar type."""

    name: Annotated[str, Limits(minimum=1)]
    shape: tuple[Size, ...]
    dtype: ScalarType

    @property
    def spec(self) -> TensorSpec:
        """Shape and scalar type without the name."""
        return TensorSpec(self.shape, self.dtype)


@dataclass(frozen=True)
class FunctionSpec:
    """A function of a component: tensors in (without ``params``, which comes last) and out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class KernelSpec:
    """A device kernel: how often one call of each function launches it, and its work.

    ``calls`` is by function name (``{"full": 7, "cached": 2}``); ``macs`` counts multiply-accumulates of one
    launch, 0 for kernels that only move or map.
    """

    name: Annotated[str, Limits(minimum=1)]
    calls: dict[str, Count]
    macs: Count = 0


@dataclass(frozen=True)
class LiveTensor:
    """A tensor that is in use at the peak of a function, and the kernel that writes it."""

    kernel: Annotated[str, Limits(minimum=1)]
    shape: tuple[Size, ...]
    bytes: Count


@dataclass(frozen=True)
class MemoryPeak:
    """Where a function has most bytes in use: no plan for this order of its calls is below ``bytes``."""

    function: Annotated[str, Limits(minimum=1)]
    bytes: Count
    tensors: tuple[LiveTensor, ...]


@dataclass(frozen=True)
class Component:
    """One library of the bundle, and the tensors that its functions take as the packed tuple ``params``.

    ``weights`` is in the order of that tuple. ``launches`` names a JSON file of the bundle with the
    component's :class:`~ddimcache.launches.LaunchLists`. ``sources`` names one that maps kernel names to
    their source texts; None where the target leaves none. ``peaks`` has one entry a function.
    """

    library: FileName
    weights_file: FileName
    weights: tuple[NamedTensor, ...]
    functions: dict[str, FunctionSpec]
    launches: FileName
    kernels: tuple[KernelSpec, ...] = ()
    activation_bytes: Count = 0
    sources: FileName | None = None
    peaks: tuple[MemoryPeak, ...] = ()

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights on the device, without padding."""
        return sum(weight.spec.bytes for weight in self.weights)

    @property
    def output_bytes(self) -> int:
        """Bytes of what a call of a function returns, of the one that returns most."""
        returned = [sum(spec.bytes for spec in function.outputs) for function in self.functions.values()]
        return max(returned, default=0)


@dataclass(frozen=True)
class SigmaSampler:
    """What a sampler that goes by noise levels, Euler's or DPM-Solver++'s, takes from the configuration.

    ``karras`` takes the noise levels of Karras et al. (NeurIPS 2022), which a request may do as well where
    ``allows_karras``. The last step arrives at no noise where ``ends_at_zero``, else at the least of the
    schedule. The other two are when the solver's last step is of first order: in fewer than 15 steps, or
    always.
    """

    timestep_spacing: Literal["leading", "trailing", "linspace"]
    steps_offset: Count
    karras: bool = False
    allows_karras: bool = True
    ends_at_zero: bool = True
    lower_order_final: bool = True
    euler_at_final: bool = False


@dataclass(frozen=True)
class ConsistencySampler:
    """What the sampler of latent consistency models takes from the configuration.

    Its steps are some of ``original_steps`` at even distances; ``timestep_scaling`` is of its boundary
    condition.
    """

    original_steps: Size
    timestep_scaling: Annotated[float, Limits(minimum=0)]


@dataclass(frozen=True)
class SamplerConstants:
    """What ``ddimcache.compiler.frontend.scheduler.sampler_constants`` takes from the model's scheduler.

    ``euler``, ``dpmpp_2m`` and ``lcm`` are None where it asks for a variant of these that is not supported.
    """

    num_train_timesteps: Size
    alphas_cumprod: tuple[Annotated[float, Limits(minimum=0, maximum=1)], ...]
    final_alpha_cumprod: Annotated[float, Limits(minimum=0, maximum=1)]
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    timestep_spacing: Literal["leading", "trailing", "linspace"]
    steps_offset: Count
    clip_sample: bool
    clip_sample_range: Annotated[float, Limits(minimum=0)]
    init_noise_sigma: Annotated[float, Limits(minimum=0)] = 1.0
    vae_scaling_factor: float = 1.0
    vae_shift_factor: float = 0.0
    euler: SigmaSampler | None = None
    dpmpp_2m: SigmaSampler | None = None
    lcm: ConsistencySampler | None = None


@dataclass(frozen=True)
class PassReport:
    """What one compiler pass did to one component, at the picture ``size`` where a bundle has several:
    ``changes`` counts rewrites, ``note`` says it in words."""

    name: Annotated[str, Limits(minimum=1)]
    component: ComponentName
    changes: Count
    seconds: Annotated[float, Limits(minimum=0)] = 0.0
    note: str = ""
    size: tuple[Size, Size] | None = None


@dataclass(frozen=True)
class PictureSize:
    """What a bundle has for one picture size: the fields of :class:`Manifest` that have these names.

    ``activation_bytes`` is by component.
    """

    image_size: tuple[Size, Size]
    latent_size: tuple[Size, Size]
    features: tuple[TensorSpec, ...]
    feature_bytes: Count
    macs_full: Count
    macs_cached: Count
    macs_saved_full: Count
    macs_saved_cached: Count
    storages: tuple[Size, ...]
    activation_bytes: dict[str, Count]
    macs_guided: dict[str, Count] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """``640x384``, as options name it."""
        return "x".join(map(str, self.image_size))


@dataclass(frozen=True)
class MergedLora:
    """A LoRA file that was added to the weights: its name, how much of it, and the sha256 of its bytes."""

    name: Annotated[str, Limits(minimum=1)]
    scale: float
    sha256: Sha256


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 of a file of the bundle."""

    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle but the bytes of its files.

    ``image_size`` is (width, height) in pixels and ``latent_size`` (width, height) in cells; ``inpaints`` is
    whether the UNet takes a mask and the latents of a masked picture beside its own; ``cut`` is the U2-cache
    cut and ``cuts`` how many the model has (0 … cuts − 1); ``context`` is the encoder's output
    [1, L, D]; ``features`` are what a full step leaves for the cached ones. ``macs_once`` is by function of
    the UNet that runs before the steps, and ``macs_saved_…`` is what is spared one of ``full`` or ``cached``.
    ``macs_guided`` is of the calls for both prompts of guidance, ``full`` and ``cached``, where the UNet has
    them, and empty otherwise.
    ``storages`` are bytes of buffers that calls of all components can use in turns, the largest first, and
    ``activation_bytes`` is those and what the components return.

    A bundle of several picture sizes says all of that of the first, and in ``more_sizes`` of the others.
    These have functions and sampler's kernels of their own, whose names end in the size: ``full_640x384``.
    """

    format_version: int
    model: Annotated[str, Limits(minimum=1)]
    model_fingerprint: Sha256
    target: Annotated[str, Limits(minimum=1)]
    device_kind: Literal["opencl", "llvm"]
    profile: Annotated[str, Limits(minimum=1)]
    host: Annotated[str, Limits(minimum=1)]
    weights: WeightsKind
    image_size: tuple[Size, Size]
    latent_size: tuple[Size, Size]
    latent_channels: Size
    inpaints: bool
    batch: Size
    cut: Count
    cuts: Size
    context: TensorSpec
    features: tuple[TensorSpec, ...]
    feature_bytes: Count
    sampler: SamplerConstants
    tokenizer: FileName
    built_with: dict[str, str]
    activation_bytes: Count
    macs_full: Count
    macs_cached: Count
    macs_once: dict[str, Count]
    macs_saved_full: Count
    macs_saved_cached: Count
    storages: tuple[Size, ...]
    components: dict[str, Component]
    passes: tuple[PassReport, ...] = ()
    loras: tuple[MergedLora, ...] = ()
    more_sizes: tuple[PictureSize, ...] = ()
    macs_guided: dict[str, Count] = field(default_factory=dict)
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def latents(self) -> TensorSpec:
        """The latents [B, 4, h, w], float32, as the UNet and the step kernels take them."""
        return self.latents_of(self.latent_size)

    @property
    def image(self) -> TensorSpec:
        """The decoder's output [B, H, W, 3], uint8."""
        return self.image_of(self.image_size)

    def latents_of(self, latent_size: tuple[int, int]) -> TensorSpec:
        """:attr:`latents` of (width, height) cells."""
        width, height = latent_size
        return TensorSpec((self.batch, self.latent_channels, height, width), "float32")

    def image_of(self, image_size: tuple[int, int]) -> TensorSpec:
        """:attr:`image` of (width, height) pixels."""
        width, height = image_size
        return TensorSpec((self.batch, height, width, 3), "uint8")

    @property
    def sizes(self) -> tuple[PictureSize, ...]:
        """Every picture size, the one that is drawn unless another is asked for first."""
        planned = {name: component.activation_bytes for name, component in self.components.items()}
        own = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(PictureSize)}
        return (PictureSize(**{**own, "activation_bytes": planned}), *self.more_sizes)

    def size_of(self, image_size: tuple[int, int] | None) -> PictureSize:
        """The entry of :attr:`sizes` for (width, height) in pixels, the first for None.

        Raises :class:`UsageError` that says which there are.
        """
        for size in self.sizes:
            if image_size in (None, size.image_size):
                return size
        asked, known = "x".join(map(str, image_size or ())), ", ".join(size.text for size in self.sizes)
        remedy = "take one of these, or compile the model again with that --size"
        raise UsageError(
            f"the bundle makes no pictures of {asked}, only of {known}", where="--size", remedy=remedy
        )

    def suffix_of(self, size: PictureSize) -> str:
        """What the names of a size's functions end in; nothing for the first."""
        return "" if size.image_size == self.image_size else f"_{size.text}"

    @property
    def guides_in_one_call(self) -> bool:
        """Whether the UNet has functions for both prompts of guidance at once."""
        return bool(self.macs_guided)

    @property
    def takes_images(self) -> bool:
        """Whether a picture can begin with another one: the bundle has an image encoder."""
        return "vae_encoder" in self.components

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights of all components on the device."""
        return sum(component.weights_bytes for component in self.components.values())

    def first_problem(self) -> str | None:
        """Return the first thing that contradicts itself or breaks the component contract, or None."""
        if set(self.components) - {"vae_encoder"} != {"text_encoder", "unet", "vae_decoder"}:
            found = ", ".join(sorted(self.components)) or "none"
            return f"components: expected text_encoder, unet and vae_decoder, found {found}"
        if self.inpaints and not self.takes_images:
            return "inpaints: true, but without a vae_encoder no picture can be filled in"
        if self.cut >= self.cuts:
            return f"cut: {self.cut} is outside 0 … {self.cuts - 1}"
        table, trained = len(self.sampler.alphas_cumprod), self.sampler.num_train_timesteps
        if table != trained:
            return f"sampler.alphas_cumprod: {table} numbers for {trained} training timesteps"
        lcm = self.sampler.lcm
        if lcm is not None and lcm.original_steps > trained:
            return f"sampler: lcm.original_steps: {lcm.original_steps} of {trained} training timesteps"
        if len(self.context.shape) != 3 or self.context.shape[0] != 1:
            return f"context: expected shape [1, L, D], found {list(self.context.shape)}"
        return self._sizes_problem() or self._functions_problem() or self._files_problem()

    def _sizes_problem(self) -> str | None:
        known: set[tuple[int, int]] = set()
        for size in self.sizes:
            where = f"more_sizes: {size.text}" if known else ""
            if size.image_size in known:
                return f"{where} is there twice"
            known.add(size.image_size)
            made, named = [spec.bytes for spec in size.features], ", ".join(sorted(size.activation_bytes))
            if not made or sum(made) != size.feature_bytes:
                problem = f"feature_bytes: {size.feature_bytes}, but {len(made)} features make {sum(made)}"
                return f"{where}: {problem}" if where else problem
            expected = {"full", "cached"} if self.guides_in_one_call else set()
            if set(size.macs_guided) != expected:
                found, wanted = (", ".join(sorted(names)) or "none" for names in (size.macs_guided, expected))
                problem = f"macs_guided: of {found}, expected {wanted}"
                return f"{where}: {problem}" if where else problem
            if where and set(size.activation_bytes) != set(self.components) - {"text_encoder"}:
                return f"{where}: activation_bytes: of {named or 'none'}, not of what depends on the size"
        return None

    @property
    def conditions(self) -> tuple[TensorSpec, TensorSpec]:
        """What the UNet takes beside the latents: of a step, and of a prompt.

        ``embed_time`` makes the first for 64 steps and ``project_context`` the second, where the UNet has
        these functions; otherwise they are the timestep [1] float32 and the contexts [B, L, D].
        """
        time = TensorSpec((1,), "float32")
        context = TensorSpec((self.batch, *self.context.shape[1:]), self.context.dtype)
        hoisted = self._hoisted
        if "embed_time" in hoisted:
            rows = hoisted["embed_time"].outputs[0]
            time = TensorSpec((1, *rows.shape[1:]), rows.dtype)
        if "project_context" in hoisted:
            context = hoisted["project_context"].outputs[0]
        return time, context

    def surroundings_of(self, size: PictureSize) -> tuple[TensorSpec, ...]:
        """What a UNet that ``inpaints`` takes beside latents, step and prompt; others take nothing.

        ``project_surroundings`` makes it where the UNet has that function; otherwise it is a mask and the
        latents of a masked picture [B, 1 + C, h, w] float32.
        """
        if not self.inpaints:
            return ()
        hoisted = self._hoisted.get("project_surroundings" + self.suffix_of(size))
        return (self._bare_surroundings(size),) if hoisted is None else hoisted.outputs

    def _bare_surroundings(self, size: PictureSize) -> TensorSpec:
        batch, channels, *sides = self.latents_of(size.latent_size).shape
        return TensorSpec((batch, 1 + channels, *sides), "float32")

    @property
    def _hoisted(self) -> dict[str, FunctionSpec]:
        """What the contract says of the functions that run before the steps; widths are the model's."""
        contexts = TensorSpec((self.batch, *self.context.shape[1:]), self.context.dtype)
        sides = {
            "embed_time": (TensorSpec((TIMES_AT_ONCE,), "float32"), (TIMES_AT_ONCE,)),
            "project_context": (contexts, contexts.shape[:2]),
        }
        for size in self.sizes if self.inpaints else ():
            given = self._bare_surroundings(size)
            name = "project_surroundings" + self.suffix_of(size)
            sides[name] = given, (self.batch, *given.shape[2:])
        found = self.components["unet"].functions
        return {
            name: FunctionSpec((given,), (TensorSpec((*lead, _width(found[name])), contexts.dtype),))
            for name, (given, lead) in sides.items()
            if name in found
        }

    def _functions_problem(self) -> str | None:
        ids, (time, context) = TensorSpec((1, self.context.shape[1]), "int32"), self.conditions
        contract = {
            ("text_encoder", "encode"): FunctionSpec((ids,), (self.context,)),
            **{("unet", name): spec for name, spec in self._hoisted.items()},
        }
        for size in self.sizes:
            suffix, features = self.suffix_of(size), size.features
            noise, image = self.latents_of(size.latent_size), self.image_of(size.image_size)
            given = (noise, time, context, *self.surroundings_of(size))
            contract["unet", f"full{suffix}"] = FunctionSpec(given, (noise, *features))
            contract["unet", f"cached{suffix}"] = FunctionSpec((*given, *features), (noise,))
            if self.guides_in_one_call:
                both, *kept = (spec.for_both() for spec in (noise, *features))
                given = (noise, time, context.for_both(), *self.surroundings_of(size))
                contract["unet", f"full{GUIDED}{suffix}"] = FunctionSpec(given, (both, *kept))
                contract["unet", f"cached{GUIDED}{suffix}"] = FunctionSpec((*given, *kept), (both,))
            contract["vae_decoder", f"decode{suffix}"] = FunctionSpec((noise,), (image,))
            if self.takes_images:
                hole = TensorSpec(image.shape[:3], "uint8")
                contract["vae_encoder", f"encode{suffix}"] = FunctionSpec((image, hole, noise), (noise,))
        for (component, function), expected in contract.items():
            where = f"components.{component}.functions"
            found = self.components[component].functions.get(function)
            if found is None:
                return f"{where}: function {function!r} is missing"
            if found != expected:
                return (
                    f"{where}.{function}: {_text(found)} does not fit the manifest's sizes: {_text(expected)}"
                )
        if set(self.macs_once) != set(self._hoisted):
            named, known = (", ".join(sorted(names)) or "none" for names in (self.macs_once, self._hoisted))
            return f"macs_once: {named}, but what the UNet has before its steps is {known}"
        return None

    def _files_problem(self) -> str | None:
        if MANIFEST_NAME in self.files:
            return f"files: {MANIFEST_NAME} cannot hold its own sum"
        for name, component in self.components.items():
            for file in (component.library, component.weights_file, component.launches, component.sources):
                if file is not None and file not in self.files:
                    return f"components.{name}: {file} is not in the list of files"
        for name in self.files:
            if not is_file_name(name):
                return f"files: {name!r} is not a plain relative file name inside the bundle"
        if not any(name.startswith(self.tokenizer + "/") for name in self.files):
            return f"tokenizer: no file of folder {self.tokenizer} is in the list of files"
        return None


def depends_on_size(function: str) -> bool:
    """Whether what a UNet computes once, by a function of this name, depends on the picture's size."""
    return function == "project_surroundings"


def _width(function: FunctionSpec) -> int:
    """The last extent of what a function returns, 1 where that has none."""
    shapes = [spec.shape for spec in function.outputs[:1] if spec.shape]
    return shapes[0][-1] if shapes else 1


def _text(function: FunctionSpec) -> str:
    sides = (function.inputs, function.outputs)
    texts = (", ".join(f"{spec.dtype}{list(spec.shape)}" for spec in side) for side in sides)
    return " → ".join(f"({text})" for text in texts)


def is_file_name(name: str) -> bool:
    """Whether a file of a bundle may have this name: no root, no ``..``, no hidden part, plain letters."""
    return len(name) <= 200 and re.fullmatch(FILE_PATTERN, name) is not None


def file_entry(path: Path) -> FileEntry:
    """Return size and sha256 of a file, read in pieces; raises OSError."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return FileEntry(stream.tell(), digest.hexdigest())
