"""Compiles a diffusers pipeline folder into a bundle."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from safetensors.numpy import save_file

from ddimcache.compiler import pipeline
from ddimcache.compiler.bundle import check_destination, write_bundle
from ddimcache.compiler.fingerprint import versions
from ddimcache.compiler.fit_memory import MemoryLimits, fit
from ddimcache.compiler.frontend.importer import ImportedComponent
from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder, load_pipeline_folder
from ddimcache.compiler.frontend.scheduler import sampler_constants
from ddimcache.compiler.frontend.text_encoder import import_text_encoder
from ddimcache.compiler.frontend.tokenizer import write_tokenizer
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.compiler.frontend.vae_decoder import import_vae_decoder
from ddimcache.compiler.frontend.vae_encoder import import_vae_encoder
from ddimcache.compiler.library import LibraryFacts, build_library, kernel_macs
from ddimcache.compiler.linker import find_linker
from ddimcache.compiler.options import CompileOptions
from ddimcache.compiler.passes.list_launches import list_launches, weight_paths
from ddimcache.compiler.passes.partition_at_cut import cut_count
from ddimcache.compiler.target import DeviceProfile, with_limits
from ddimcache.errors import UsageError
from ddimcache.kernels.sampler import kernel as sampler_kernels
from ddimcache.launches import LaunchLists
from ddimcache.manifest import (
    FORMAT_VERSION,
    Component,
    FunctionSpec,
    Manifest,
    MergedLora,
    NamedTensor,
    PassReport,
    SamplerConstants,
    TensorSpec,
)
from ddimcache.records import from_json, to_json
from ddimcache.runtime.progress import Progress, Stage
from ddimcache.schedules.threads_to_loops import threads_to_loops
from ddimcache.schedules.tuning_records import tuned_profile


@dataclass(frozen=True)
class CompileReport:
    """What a compilation made: the manifest as written and how long it took, in seconds.

    ``skipped_records`` says, in words, which tuning records could not be used.
    """

    manifest: Manifest
    seconds: float
    skipped_records: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sizes:
    """Latent and picture sizes of a compilation."""

    latent_width: int
    latent_height: int
    scale: int
    batch: int
    channels: int

    @property
    def latents(self) -> TensorSpec:
        return TensorSpec((self.batch, self.channels, self.latent_height, self.latent_width), "float32")

    @property
    def image(self) -> TensorSpec:
        width, height = self.latent_width * self.scale, self.latent_height * self.scale
        return TensorSpec((self.batch, height, width, 3), "uint8")


def compile_pipeline(
    model_dir: Path, out_dir: Path, options: CompileOptions, progress: Progress
) -> CompileReport:
    """Compiles the pipeline in ``model_dir`` and writes the bundle ``out_dir``, whole or not at all.

    Components are compiled one after another, so that the weights of one are in memory at a time.

    Raises :class:`FrontendError` for a model that is not supported, :class:`UsageError` for options that do
    not fit the model, :class:`CompileError` when the target cannot be built for, :class:`BundleError` for a
    folder of tuning records that cannot be read.
    """
    start = time.perf_counter()
    check_destination(out_dir)
    device, skipped = tuned_profile(options.target, options.tune_log)
    device = with_limits(device, options.lower_limits)
    find_linker(options.host)
    folder = load_pipeline_folder(model_dir, options.lora_choices)
    sizes = _sizes(folder, options)
    with tempfile.TemporaryDirectory(prefix=".ddimcache-", dir=out_dir.absolute().parent) as scratch:
        builder = _Builder(folder, options, device, sizes, Path(scratch))
        components = list(builder.components())
        with progress.stage("compile", total=len(components) * (pipeline.PHASE_COUNT + 3) + 1) as stage:
            for component in components:
                builder.add(*component, stage)
        manifest = builder.manifest(sampler_constants(folder))
        manifest = write_bundle(out_dir, manifest, builder.files)
    return CompileReport(manifest, time.perf_counter() - start, skipped)


def _sizes(folder: PipelineFolder, options: CompileOptions) -> _Sizes:
    config = folder.unet_config
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    # A skip connection for conv_in, for every layer of the down path and for every down-sampling.
    cuts = 1 + (layers * levels if isinstance(layers, int) else sum(layers)) + levels - 1
    if options.cut >= cuts:
        raise UsageError(
            f"this UNet has no cut {options.cut}; it has {cuts}, from 0 (the outermost) to {cuts - 1}",
            where="--cut",
        )
    height, width = folder.latent_size
    scale = folder.vae_scale
    if options.width:
        # Every down-sampling of the UNet halves the latents, and every half has to be whole.
        multiple = scale * 2 ** (len(folder.unet_config["block_out_channels"]) - 1)
        for name, side in (("width", options.width), ("height", options.height)):
            if side % multiple:
                raise UsageError(
                    f"{name} {side} is not a multiple of {multiple}, as this model needs", where="--size"
                )
        width, height = options.width // scale, options.height // scale
    return _Sizes(width, height, scale, options.batch, folder.latent_channels)


class _Builder:
    """Collects files and manifest entries, component by component."""

    def __init__(
        self,
        folder: PipelineFolder,
        options: CompileOptions,
        device: DeviceProfile,
        sizes: _Sizes,
        scratch: Path,
    ) -> None:
        self.folder = folder
        self.options = options
        self.device = device
        self.sizes = sizes
        self.scratch = scratch
        self.files: dict[str, bytes | Path] = {}
        self.entries: dict[str, Component] = {}
        self.passes: list[PassReport] = []
        self.macs: dict[str, int] = {}
        self.macs_saved: dict[str, int] = {}
        self.cuts = 0
        self.feature = TensorSpec((1,), "float32")

    def components(self) -> Iterator[tuple[str, Callable[[], ImportedComponent]]]:
        """The components with what imports them, in the order of use."""
        dtype, sizes, folder = self.device.compute_dtype, self.sizes, self.folder
        tokens, batch = folder.text_length, sizes.batch
        height, width = sizes.latent_height, sizes.latent_width
        yield "text_encoder", lambda: import_text_encoder(folder.load_text_encoder(), tokens, dtype)
        yield "unet", lambda: import_unet(folder.load_unet(), batch, height, width, tokens, dtype)
        yield "vae_decoder", lambda: import_vae_decoder(folder.load_vae(), batch, height, width, dtype)
        if self.takes_images:
            yield (
                "vae_encoder",
                lambda: import_vae_encoder(folder.load_vae(), batch, height, width, sizes.scale, dtype),
            )

    @property
    def takes_images(self) -> bool:
        """Whether the image encoder is part of the bundle: where it is asked for, or nothing goes without."""
        return self.options.image_to_image or self.folder.inpaints

    @property
    def context(self) -> TensorSpec:
        return TensorSpec((1, self.folder.text_length, self.folder.text_width), self.device.compute_dtype)  # type: ignore[arg-type]

    def add(self, name: str, load: Callable[[], ImportedComponent], stage: Stage) -> None:
        """Compiles a component and keeps its files and its entry of the manifest."""
        stage.advance(0, f"{name}: import")
        component = load()
        stage.advance(1)
        entry = {"unet": "main", "vae_decoder": "decode"}.get(name, "encode")
        cut = None
        if name == "unet":
            self.cuts, cut = cut_count(component.module), self.options.cut
        request = pipeline.Request(
            component,
            self.device,
            self.options.weights,
            entry,
            cut,
            accumulate=self.options.accumulate_choices,
        )
        dump = None if self.options.dump_ir is None else Path(self.options.dump_ir)
        trials = 0

        def run(request: pipeline.Request) -> pipeline.Compilation:
            nonlocal trials
            trials += 1
            # Only the first one is sure to run, so only its phases count.
            count, bands = int(trials == 1), f" ({request.tiling.bands} bands)" if request.tiling else ""
            return pipeline.run(request, dump, lambda phase: stage.advance(count, f"{name}: {phase}{bands}"))

        compilation = fit(request, self._limits(), run)
        self.macs.update(compilation.macs)
        self.macs_saved.update(compilation.macs_saved)
        module = compilation.module
        merged = compilation.merged_weights
        paths = weight_paths(compilation.weight_names, component.weight_paths, merged)
        launches = list_launches(module, list(compilation.inputs), paths, kernel_macs, name)
        if name == "unet":
            sampler = self._sampler(compilation.module["full"].params[1].ty)
            names = [variable.name_hint for variable in sampler.get_global_vars()]
            more = list_launches(sampler, names, [], kernel_macs, "sampler")
            launches = LaunchLists(
                launches.functions | more.functions, launches.work | more.work, launches.workloads
            )
            module.update(sampler)
        text = json.dumps(to_json(launches), separators=(",", ":"))
        self.files[f"{name}.launches.json"] = text.encode()
        stage.advance(0, f"{name}: build kernels")
        path = self.scratch / f"{name}.so"
        facts = build_library(module, self.device, self.options.host, list(compilation.inputs), path)
        stage.advance(1, f"{name}: pack weights")
        self._keep(name, path, compilation, facts)
        stage.advance(1)
        for report in compilation.reports:
            self.passes.append(
                PassReport(report.phase, name, report.changes, report.seconds, report.note)  # type: ignore[arg-type]
            )

    def _limits(self) -> MemoryLimits:
        """What the next component may take: the budget is for all of them together."""
        wanted, allocation = self.device.wanted_activations, self.device.max_allocation
        budget = self.options.memory_budget
        if budget is not None:
            left = max(budget - sum(entry.activation_bytes for entry in self.entries.values()), 0)
            if left < wanted:
                return MemoryLimits(left, "--memory-budget leaves", left, allocation)
        return MemoryLimits(wanted, f"{self.device.name} should take", 1 << 62, allocation)

    def _sampler(self, time: Any) -> Any:
        """A module with the kernels that the loop runs; the UNet takes ``time``, a type, of a step."""
        latents = self.sizes.latents.shape
        assert len(latents) == 4
        kernels = {
            "next_step": sampler_kernels.next_step(_spec(time).shape, str(time.dtype)),
            "step": sampler_kernels.step(latents),
            "guide_and_step": sampler_kernels.guide_and_step(latents),
        }
        if self.takes_images and not self.folder.inpaints:
            kernels["keep_picture"] = sampler_kernels.keep_picture(latents)
        if self.device.kind == "llvm":
            kernels = {name: threads_to_loops(kernel) for name, kernel in kernels.items()}
        return tvm.IRModule(
            {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
        )

    def _keep(self, name: str, library: Path, compilation: pipeline.Compilation, facts: LibraryFacts) -> None:
        weights = {weight: compilation.store.array(weight) for weight in compilation.weight_names}
        weights_path = self.scratch / f"{name}.safetensors"
        save_file(weights, weights_path)
        specs = tuple(NamedTensor(key, array.shape, _dtype(array)) for key, array in weights.items())
        del weights
        self.files[f"{name}.so"] = library
        self.files[f"{name}.safetensors"] = weights_path
        sources = None
        if facts.sources:
            sources = f"{name}.sources.json"
            self.files[sources] = json.dumps(facts.sources, indent=0).encode()
        if name == "unet":
            shape = compilation.feature_shape
            assert shape is not None
            self.feature = TensorSpec(shape, self.device.compute_dtype)  # type: ignore[arg-type]
        self.entries[name] = Component(
            library=f"{name}.so",
            weights_file=f"{name}.safetensors",
            weights=specs,
            functions=self._functions(name, compilation),
            launches=f"{name}.launches.json",
            kernels=facts.kernels,
            activation_bytes=facts.activation_bytes,
            sources=sources,
            peaks=compilation.peaks,
        )

    def _functions(self, name: str, compilation: pipeline.Compilation) -> dict[str, FunctionSpec]:
        latents, context = self.sizes.latents, self.context
        if name == "text_encoder":
            ids = TensorSpec((1, self.folder.text_length), "int32")
            return {"encode": FunctionSpec((ids,), (context,))}
        if name == "vae_decoder":
            return {"decode": FunctionSpec((latents,), (self.sizes.image,))}
        if name == "vae_encoder":
            image = self.sizes.image
            hole = TensorSpec(image.shape[:3], "uint8")
            return {"encode": FunctionSpec((image, hole, latents), (latents,))}
        functions = {
            function: FunctionSpec((_spec(compiled.params[0].ty),), (_spec(compiled.ret_ty),))
            for function in compilation.inputs
            if function not in ("full", "cached")
            for compiled in (compilation.module[function],)
        }
        parameters = compilation.module["full"].params[: compilation.inputs["full"]]
        inputs = (latents, *(_spec(parameter.ty) for parameter in parameters[1:]))
        return {
            **functions,
            "full": FunctionSpec(inputs, (latents, self.feature)),
            "cached": FunctionSpec((*inputs, self.feature), (latents,)),
        }

    def manifest(self, constants: dict[str, Any]) -> Manifest:
        """The manifest, without the sums of files."""
        tokenizer = self.scratch / "tokenizer"
        tokenizer.mkdir()
        for path in write_tokenizer(self.folder.tokenizer, self.folder.tokenizer_constants, tokenizer):
            self.files[f"tokenizer/{path.name}"] = path
        sizes, options = self.sizes, self.options
        return Manifest(
            format_version=FORMAT_VERSION,
            model=self.folder.path.resolve().name,
            model_fingerprint=self.folder.fingerprint(),
            target=options.target,
            device_kind=self.device.kind,  # type: ignore[arg-type]
            profile=self.device.name,
            host=options.host,
            weights=options.weights,  # type: ignore[arg-type]
            image_size=(sizes.latent_width * sizes.scale, sizes.latent_height * sizes.scale),
            latent_size=(sizes.latent_width, sizes.latent_height),
            latent_channels=sizes.channels,
            inpaints=self.folder.inpaints,
            batch=sizes.batch,
            cut=options.cut,
            cuts=self.cuts,
            context=self.context,
            feature=self.feature,
            feature_bytes=self.feature.bytes,
            sampler=from_json(SamplerConstants, constants),
            tokenizer="tokenizer",
            built_with=versions(),
            activation_bytes=sum(entry.activation_bytes for entry in self.entries.values()),
            macs_full=self.macs["full"],
            macs_cached=self.macs["cached"],
            macs_once={
                hoisted.function: self.macs[hoisted.function]
                for hoisted in pipeline.HOISTED
                if hoisted.function in self.macs
            },
            macs_saved_full=self.macs_saved["full"],
            macs_saved_cached=self.macs_saved["cached"],
            components=self.entries,
            passes=tuple(self.passes),
            loras=tuple(
                MergedLora(lora.choice.path.name, lora.choice.scale, lora.sha256)
                for lora in self.folder.loras
            ),
        )


def _spec(tensor: Any) -> TensorSpec:
    """A Relax tensor type as the manifest has it."""
    return TensorSpec(tuple(int(extent) for extent in tensor.shape.values), str(tensor.dtype))  # type: ignore[arg-type]


def _dtype(array: np.ndarray) -> Any:
    return array.dtype.name
