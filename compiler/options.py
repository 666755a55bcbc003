"""What a compilation is asked for, checked once and written into cache keys as JSON."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ddimcache.errors import UsageError
from ddimcache.manifest import WeightsKind
from ddimcache.records import RecordProblem, from_json, loads, to_json

HOSTS = ("x86_64-linux-gnu", "aarch64-linux-gnu", "aarch64-linux-android")
TARGETS = ("opencl", "adreno-740", "llvm")
LARGEST_SIDE = 4096
ACCUMULATE_KINDS = ("auto", "float32", "float16")
ACTIVATION_KINDS = ("float", "int8")
ATTENTION_KINDS = ("float", "bfloat16")
LIMITS = (
    "max_threads",
    "max_local_memory",
    "max_allocation",
    "max_kernel_arguments",
    "max_argument_bytes",
    "max_image_pixels",
)
"""Limits of a device profile that ``--limit`` may lower."""
MOST_SIZES = 32
"""Picture sizes of a bundle: each takes about as long to compile as a bundle of its own."""
OPTIONS_ENTRY = "options"
"""The entry of a manifest's ``built_with`` that keeps the options which it does not tell otherwise."""
_UNTOLD = (
    "accumulate",
    "activations",
    "attention",
    "guide_in_one_call",
    "keep_fp16",
    "limits",
    "memory_budget",
    "tune_log",
)
NO_RECORDS = "none"
"""As ``--tune-log``: the families' defaults, and no tuning record."""


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA file that is merged into the model, and how much of it: 1 is the whole."""

    path: Path
    scale: float

    @classmethod
    def parse(cls, text: str) -> LoraChoice:
        """Read ``FILE`` or ``FILE:SCALE``; raises :class:`UsageError`."""
        name, colon, number = text.rpartition(":")
        try:
            scale = float(number) if colon else None
        except ValueError:
            scale = None
        if scale is None:
            name, scale = text, 1.0
        if not math.isfinite(scale):
            raise UsageError(f"scale {number} is no number", where="--lora", remedy="write FILE:0.8")
        if Path(name).suffix != ".safetensors":
            raise UsageError(
                f"'{name or text}' is no safetensors file",
                where="--lora",
                remedy="name a file that ends in .safetensors; others can run code when they are read",
            )
        return cls(Path(name), scale)


@dataclass(frozen=True)
class LayerChoice:
    """A ``kind`` for the layers whose path matches ``pattern``, as the shell matches file names."""

    pattern: str
    kind: str

    @classmethod
    def parse(cls, text: str, option: str = "--accumulate") -> LayerChoice:
        """Read ``KIND`` or ``PATTERN=KIND`` as ``option`` has them; raises :class:`UsageError`."""
        kinds, problem = _LAYER_OPTIONS[option]
        pattern, equals, kind = text.rpartition("=")
        if kind not in kinds or (equals and not pattern):
            raise UsageError(
                f"'{text}' does not say {problem}",
                where=option,
                remedy=f"write one of {', '.join(kinds)}, or PATTERN=KIND such as "
                f"'up_blocks.*.attn1.*={kinds[1]}'",
            )
        return cls(pattern or "*", kind)


_LAYER_OPTIONS = {
    "--accumulate": (ACCUMULATE_KINDS, "how to sum"),
    "--activations": (ACTIVATION_KINDS, "what activations are multiplied as"),
}


def chosen_kind(choices: Sequence[LayerChoice], layer: str, default: str) -> str:
    """The kind of the last of ``choices`` that names ``layer``, or ``default``."""
    asked = [choice.kind for choice in choices if fnmatch.fnmatchcase(layer, choice.pattern)]
    return asked[-1] if asked else default


@dataclass(frozen=True)
class CompileOptions:
    """Options of one compilation; making one with a bad value raises :class:`UsageError` naming the option.

    ``width`` and ``height`` are in pixels, both 0 for the model's own size; ``more_sizes`` are further sizes
    (width, height) that the bundle makes pictures of. ``memory_budget`` is in bytes;
    ``tune_log`` is a folder of tuning records, ``none`` for not even those that come with the package, and
    ``dump_ir`` a folder; ``loras`` are as :meth:`LoraChoice.parse` reads them; ``image_to_image`` adds the
    image encoder, which a model for inpainting has anyway; ``guide_in_one_call`` adds functions for both
    prompts of guidance at once; ``accumulate`` and ``activations`` are as :meth:`LayerChoice.parse`
    reads them, the last that names a layer counts; activations may be rounded to int8 where weights are;
    ``attention`` says what its products are taken in;
    ``keep_fp16`` are patterns of layers whose weights keep fp16 where others get int8; ``limits`` are
    ``NAME=NUMBER`` and lower those of the target's profile. How many cuts a model has, and what its sizes
    must be multiples of beyond 8, is the frontend's to say.
    """

    target: str = "opencl"
    weights: str = "int8"
    cut: int = 0
    width: int = 0
    height: int = 0
    more_sizes: tuple[tuple[int, int], ...] = ()
    batch: int = 1
    host: str = "x86_64-linux-gnu"
    memory_budget: int | None = None
    tune_log: str | None = None
    dump_ir: str | None = None
    loras: tuple[str, ...] = ()
    image_to_image: bool = False
    accumulate: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    attention: str = "float"
    keep_fp16: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    guide_in_one_call: bool = False

    def __post_init__(self) -> None:
        _one_of("--target", self.target, TARGETS)
        _one_of("--weights", self.weights, get_args(WeightsKind))
        _one_of("--host", self.host, HOSTS)
        _one_of("--attention", self.attention, ATTENTION_KINDS)
        _ = self.lora_choices, self.accumulate_choices, self.lower_limits
        rounds = any(choice.kind == "int8" for choice in self.activation_choices)
        self._check_rounding("--activations", rounds, "int8", self.weights.startswith("int8"))
        self._check_rounding("--attention", self.attention != "float", self.attention, self.weights != "fp32")
        if self.cut < 0:
            raise UsageError(f"{self.cut} is negative", where="--cut", remedy="cuts count from 0")
        if not 1 <= self.batch <= 64:
            raise UsageError(f"{self.batch} is outside 1 … 64", where="--batch")
        if (self.width == 0) != (self.height == 0):
            raise UsageError("give both width and height, or neither", where="--size")
        if self.width:
            _check_size(self.width, self.height)
        elif self.more_sizes:
            raise UsageError("further sizes need a first one", where="--size")
        for width, height in self.more_sizes:
            _check_size(width, height)
        if len({(self.width, self.height), *self.more_sizes}) <= len(self.more_sizes):
            raise UsageError("names a size twice", where="--size")
        if len(self.more_sizes) >= MOST_SIZES:
            raise UsageError(
                f"{len(self.more_sizes) + 1} sizes, at most {MOST_SIZES} fit into a bundle",
                where="--size",
                remedy="take a larger step, such as 384..640x384..640:128",
            )
        if self.memory_budget is not None and self.memory_budget < 1:
            raise UsageError(f"{self.memory_budget} bytes is no budget", where="--memory-budget")
        if self.tune_log not in (None, NO_RECORDS) and not Path(str(self.tune_log)).is_dir():
            raise UsageError(f"{self.tune_log} is not a folder", where="--tune-log")

    def _check_rounding(self, option: str, asked: bool, kind: str, fits: bool) -> None:
        """Raises :class:`UsageError` where ``option`` asks for what does not fit weights or target."""
        if asked and not fits:
            raise UsageError(
                f"{kind} does not go with weights of {self.weights}",
                where=option,
                remedy="compile with --weights int8",
            )
        if asked and self.target == "adreno-740":
            raise UsageError(
                "adreno-740 multiplies in float16 only",
                where=option,
                remedy="leave the option out, or take --target opencl for a CPU",
            )

    @property
    def lora_choices(self) -> tuple[LoraChoice, ...]:
        """``loras`` read, in the order in which they are merged; raises :class:`UsageError`."""
        return tuple(LoraChoice.parse(text) for text in self.loras)

    @property
    def accumulate_choices(self) -> tuple[LayerChoice, ...]:
        """``accumulate`` read, in the order given; raises :class:`UsageError`."""
        return tuple(LayerChoice.parse(text) for text in self.accumulate)

    @property
    def activation_choices(self) -> tuple[LayerChoice, ...]:
        """``activations`` read, in the order given; raises :class:`UsageError`."""
        return tuple(LayerChoice.parse(text, "--activations") for text in self.activations)

    @property
    def lower_limits(self) -> dict[str, int]:
        """``limits`` read, the lowest of each name; raises :class:`UsageError`."""
        found: dict[str, int] = {}
        for text in self.limits:
            name, _, number = text.partition("=")
            if name not in LIMITS or not number.isdecimal() or int(number) < 1:
                raise UsageError(
                    f"'{text}' is no limit",
                    where="--limit",
                    remedy=f"write NAME=NUMBER; names are {', '.join(LIMITS)}",
                )
            found[name] = min(int(number), found.get(name, int(number)))
        return found

    def check_layers(self, layers: Collection[str]) -> None:
        """Raises :class:`UsageError` for a pattern that names none of a model's ``layers``."""
        patterns = [("--keep-fp16", pattern) for pattern in self.keep_fp16]
        patterns += [("--accumulate", choice.pattern) for choice in self.accumulate_choices]
        patterns += [("--activations", choice.pattern) for choice in self.activation_choices]
        for option, pattern in patterns:
            if not any(fnmatch.fnmatchcase(layer, pattern) for layer in layers):
                # What `inspect --layers` shows of layers that became one product.
                is_around = any(fnmatch.fnmatchcase(layer, f"{pattern}.*") for layer in layers)
                raise UsageError(
                    f"no layer of this model is called '{pattern}'",
                    where=option,
                    remedy=f"write '{pattern}.*' for those in it"
                    if is_around
                    else "`inspect --layers` of a bundle of it lists them",
                )

    def untold(self) -> dict[str, str]:
        """Return what a manifest tells by no field of its own, as an entry of ``built_with``; mostly empty.

        :meth:`with_untold` reads it, so that a variant of a bundle is compiled as the bundle was. A folder of
        tuning records is named by its whole path.
        """
        usual = CompileOptions()
        asked = [name for name in _UNTOLD if getattr(self, name) != getattr(usual, name)]
        values = {name: to_json(getattr(self, name)) for name in asked}
        if self.tune_log not in (None, NO_RECORDS):
            values["tune_log"] = str(Path(str(self.tune_log)).absolute())
        return {OPTIONS_ENTRY: json.dumps(values, sort_keys=True)} if values else {}

    def with_untold(self, built_with: Mapping[str, str]) -> CompileOptions:
        """Return these options with those that a manifest's ``built_with`` keeps.

        A folder of tuning records that is not there any more is left out, see :func:`missing_records`; so
        are activations of int8 where weights are not, and attention of bfloat16 where weights are float32.
        Raises :class:`UsageError` where that entry is none that :meth:`untold` writes.
        """
        kept = _kept_options(built_with)
        if missing_records(built_with) is not None:
            del kept["tune_log"]
        if not self.weights.startswith("int8"):
            # What is compared with a bundle of rounded activations, and rounds nothing.
            kept.pop("activations", None)
        if self.weights == "fp32":
            kept.pop("attention", None)
        own = to_json(self)
        assert isinstance(own, dict)
        return self.from_json(json.dumps({**own, **kept}))

    def to_json(self) -> str:
        """Return the options as one line of JSON with sorted keys."""
        return json.dumps(to_json(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CompileOptions:
        """Read what :meth:`to_json` wrote; unknown keys and bad values raise :class:`UsageError`."""
        try:
            return from_json(cls, loads(text))
        except RecordProblem as problem:
            raise UsageError(str(problem), where="compile options") from problem


def rounds_activations(built_with: Mapping[str, str]) -> bool:
    """Return whether a bundle with this ``built_with`` rounds activations of some layers or of attention."""
    options = CompileOptions().with_untold(built_with)
    return options.attention != "float" or any(each.kind == "int8" for each in options.activation_choices)


def missing_records(built_with: Mapping[str, str]) -> str | None:
    """Return the folder of tuning records that a manifest's ``built_with`` names and this machine lacks."""
    folder = _kept_options(built_with).get("tune_log", NO_RECORDS)
    if not isinstance(folder, str) or folder == NO_RECORDS or Path(folder).is_dir():
        return None
    return folder


def _kept_options(built_with: Mapping[str, str]) -> dict[str, Any]:
    try:
        kept = loads(built_with.get(OPTIONS_ENTRY, "{}"))
    except RecordProblem as problem:
        raise UsageError(str(problem), where="compile options of the bundle") from problem
    if not isinstance(kept, dict) or not set(kept) <= set(_UNTOLD):
        raise UsageError("are not those that a bundle keeps", where="compile options of the bundle")
    return kept


def _check_size(width: int, height: int) -> None:
    for name, side in (("width", width), ("height", height)):
        if side < 8 or side > LARGEST_SIDE or side % 8:
            raise UsageError(
                f"{name} {side} is not a multiple of 8 from 8 to {LARGEST_SIDE}",
                where="--size",
                remedy="for Stable Diffusion take multiples of 64, such as 512x512",
            )


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{value!r} is none of: {', '.join(choices)}", where=option)
