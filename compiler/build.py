"""Compiles a diffusers pipeline folder into a bundle."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ddimcache.compiler import pipeline
from ddimcache.compiler.bundle import check_destination, write_bundle, write_weights
from ddimcache.compiler.fingerprint import versions
from ddimcache.compiler.fit_memory import MemoryLimits, fit, planned
from ddimcache.compiler.frontend.importer import ImportedComponent
from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder, load_pipeline_folder
from ddimcache.compiler.frontend.scheduler import sampler_constants
from ddimcache.compiler.frontend.text_encoder import import_text_encoder
from ddimcache.compiler.frontend.tokenizer import write_tokenizer
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.compiler.frontend.vae_decoder import import_vae_decoder
from ddimcache.compiler.frontend.vae_encoder import import_vae_encoder
from ddimcache.compiler.join_sizes import join_sizes
from ddimcache.compiler.library import LibraryFacts, build_library, kernel_macs
from ddimcache.compiler.linker import find_linker
from ddimcache.compiler.memory_plan import Plan, plan_in_turns
from ddimcache.compiler.options import CompileOptions
from ddimcache.compiler.passes.list_launches import list_launches, weight_paths
from ddimcache.compiler.passes.pack_weights import PanelWidths
from ddimcache.compiler.passes.partition_at_cut import cut_count
from ddimcache.compiler.scratch import folder_beside
from ddimcache.compiler.sizes import Sizes, sizes_of
from ddimcache.compiler.target import DeviceProfile, with_limits
from ddimcache.kernels.sampler import kernel as sampler_kernels
from ddimcache.launches import LaunchLists
from ddimcache.manifest import (
    FORMAT_VERSION,
    GUIDED,
    Component,
    FunctionSpec,
    Manifest,
    MergedLora,
    NamedTensor,
    PassReport,
    PictureSize,
    SamplerConstants,
    TensorSpec,
    depends_on_size,
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
    sizes = sizes_of(folder, options)
    # Before minutes of work; at the end again, for layers of components that are not compiled.
    options.check_layers(folder.layers)
    with folder_beside(out_dir) as scratch:
        builder = _Builder(folder, options, device, sizes, scratch)
        components = list(builder.components())
        with progress.stage("compile", total=sum(component.stages for component in components)) as stage:
            for component in components:
                builder.add(component, stage)
        options.check_layers(builder.layers)
        manifest = builder.manifest(sampler_constants(folder))
        manifest = write_bundle(out_dir, manifest, builder.files)
    return CompileReport(manifest, time.perf_counter() - start, skipped)


@dataclass(frozen=True)
class _Task:
    """A component to compile: what loads its network, and what imports that for each of ``sizes``."""

    name: str
    load: Callable[[], Any]
    imported: Callable[[Any, Sizes], ImportedComponent]
    sizes: tuple[Sizes, ...]
    phases: int = pipeline.PHASE_COUNT

    @property
    def entry(self) -> str:
        return {"unet": "main", "vae_decoder": "decode"}.get(self.name, "encode")

    @property
    def stages(self) -> int:
        """How far progress goes: imports and phases of every size, then the library and the weights."""
        return len(self.sizes) * (self.phases + 1) + 2


class _Builder:
    """Collects files and manifest entries, component by component."""

    def __init__(
        self,
        folder: PipelineFolder,
        options: CompileOptions,
        device: DeviceProfile,
        sizes: tuple[Sizes, ...],
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
        self.layers: set[str] = set()
        self.planned: dict[Sizes, dict[str, Plan]] = {each: {} for each in sizes}
        self.unets: dict[Sizes, pipeline.Compilation] = {}
        self.cuts = 0

    def components(self) -> Iterator[_Task]:
        """The components in the order of use."""
        dtype, folder, sizes = self.device.compute_dtype, self.folder, self.sizes
        tokens, batch = folder.text_length, sizes[0].batch

        def cells(size: Sizes) -> tuple[int, int]:
            return size.latent_height, size.latent_width

        def text_encoder(network: Any, _: Sizes) -> ImportedComponent:
            return import_text_encoder(network, tokens, dtype)

        def unet(network: Any, size: Sizes) -> ImportedComponent:
            return import_unet(network, batch, *cells(size), tokens, dtype)

        def vae_decoder(network: Any, size: Sizes) -> ImportedComponent:
            return import_vae_decoder(network, batch, *cells(size), dtype)

        def vae_encoder(network: Any, size: Sizes) -> ImportedComponent:
            return import_vae_encoder(network, batch, *cells(size), size.scale, dtype)

        yield _Task("text_encoder", folder.load_text_encoder, text_encoder, sizes[:1])
        phases = pipeline.UNET_PHASE_COUNT + folder.inpaints + self.options.guide_in_one_call
        yield _Task("unet", folder.load_unet, unet, sizes, phases)
        yield _Task("vae_decoder", folder.load_vae, vae_decoder, sizes)
        if self.takes_images:
            yield _Task("vae_encoder", folder.load_vae, vae_encoder, sizes)

    @property
    def takes_images(self) -> bool:
        """Whether the image encoder is part of the bundle: where it is asked for, or nothing goes without."""
        return self.options.image_to_image or self.folder.inpaints

    @property
    def context(self) -> TensorSpec:
        return TensorSpec((1, self.folder.text_length, self.folder.text_width), self.device.compute_dtype)  # type: ignore[arg-type]

    def add(self, task: _Task, stage: Stage) -> None:
        """Compiles a component and keeps its files and its entry of the manifest."""
        name = task.name
        stage.advance(0, f"{name}: import")
        network = task.load()
        compilations: list[tuple[Sizes, pipeline.Compilation]] = []
        for size in task.sizes:
            component = task.imported(network, size)
            stage.advance(1)
            packed = compilations[0][1].widths if compilations else {}
            compilation = self._compiled(task, size, component, packed, stage)
            compilations.append((size, compilation))
            of_size = size.image_size if len(task.sizes) > 1 else None
            for report in compilation.reports:
                self.passes.append(
                    PassReport(report.phase, name, report.changes, report.seconds, report.note, of_size)  # type: ignore[arg-type]
                )
        module, functions = join_sizes([(size.suffix, compilation) for size, compilation in compilations])
        self.layers |= {path.rpartition(".")[0] for path in component.weight_paths.values()}
        first = compilations[0][1]
        paths = weight_paths(first.weight_names, component.weight_paths, first.merged_weights)
        launches = list_launches(module, functions, paths, kernel_macs, name)
        if name == "unet":
            self.unets = dict(compilations)
            sampler = self._sampler(first.module["full"].params[1].ty)
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
        facts = build_library(module, self.device, self.options.host, list(functions), path)
        stage.advance(1, f"{name}: pack weights")
        self._keep(name, path, compilations, facts, paths)
        stage.advance(1)

    def _compiled(
        self,
        task: _Task,
        size: Sizes,
        component: ImportedComponent,
        widths: PanelWidths,
        stage: Stage,
    ) -> pipeline.Compilation:
        """One component at one size, in as many bands as its memory wants."""
        cut = None
        if task.name == "unet":
            self.cuts, cut = cut_count(component.module), self.options.cut
        weights = self.options.weights
        request = pipeline.Request(
            component,
            self.device,
            weights,
            task.entry,
            cut,
            accumulate=self.options.accumulate_choices,
            # A text or a picture is made once, a step of the UNet many times.
            activations=self.options.activation_choices if cut is not None else (),
            attention=self.options.attention if cut is not None else "float",
            keep_fp16=self.options.keep_fp16,
            widths=widths,
            guided=cut is not None and self.options.guide_in_one_call,
        )
        dump = None if self.options.dump_ir is None else Path(self.options.dump_ir)
        if dump is not None and size.suffix:
            dump /= size.suffix.removeprefix("_")
        trials = 0

        def run(request: pipeline.Request) -> pipeline.Compilation:
            nonlocal trials
            trials += 1
            # Only the first one is sure to run, so only its phases count.
            count, bands = int(trials == 1), f" ({request.tiling.bands} bands)" if request.tiling else ""
            where = task.name + size.suffix.replace("_", " ")
            return pipeline.run(request, dump, lambda phase: stage.advance(count, f"{where}: {phase}{bands}"))

        compilation = fit(request, self._limits(size), run)
        for each in self.sizes if task.name == "text_encoder" else (size,):
            self.planned[each][task.name] = planned(compilation)
        return compilation

    def _limits(self, size: Sizes) -> MemoryLimits:
        """What the next component may take: the budget is for all of them together, at each size."""
        wanted, allocation = self.device.wanted_activations, self.device.max_allocation
        budget = self.options.memory_budget
        should = f"{self.device.name} should take"
        if budget is None:
            return MemoryLimits(wanted, should, 1 << 62, allocation)
        beside = tuple(self.planned[size].values())
        left, leaves = max(budget - plan_in_turns(beside).bytes, 0), "--memory-budget leaves"
        if left < wanted:
            return MemoryLimits(left, leaves, left, allocation, beside)
        return MemoryLimits(wanted, should, left, allocation, beside, leaves)

    def _sampler(self, time: Any) -> Any:
        """A module with the kernels that the loop runs; the UNet takes ``time``, a type, of a step."""
        kernels = {"next_step": sampler_kernels.next_step(_spec(time).shape, str(time.dtype))}
        for size in self.sizes:
            latents = size.latents.shape
            assert len(latents) == 4
            kernels[f"step{size.suffix}"] = sampler_kernels.step(latents)
            kernels[f"guide_and_step{size.suffix}"] = sampler_kernels.guide_and_step(latents)
            if self.options.guide_in_one_call:
                kernels[f"guide_both_and_step{size.suffix}"] = sampler_kernels.guide_both_and_step(latents)
            if self.takes_images and not self.folder.inpaints:
                kernels[f"keep_picture{size.suffix}"] = sampler_kernels.keep_picture(latents)
        if self.device.kind == "llvm":
            kernels = {name: threads_to_loops(kernel) for name, kernel in kernels.items()}
        return tvm.IRModule(
            {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
        )

    def _keep(
        self,
        name: str,
        library: Path,
        compilations: list[tuple[Sizes, pipeline.Compilation]],
        facts: LibraryFacts,
        paths: Sequence[str],
    ) -> None:
        size, first = compilations[0]
        weights = {
            weight: first.store.array(weight, f"`{layer}` of {name}")
            for weight, layer in zip(first.weight_names, paths, strict=True)
        }
        weights_path = self.scratch / f"{name}.safetensors"
        write_weights(weights, weights_path)
        specs = tuple(NamedTensor(key, array.shape, _dtype(array)) for key, array in weights.items())
        del weights
        self.files[f"{name}.so"] = library
        self.files[f"{name}.safetensors"] = weights_path
        sources = None
        if facts.sources:
            sources = f"{name}.sources.json"
            self.files[sources] = json.dumps(facts.sources, indent=0).encode()
        functions = {}
        for each, compilation in compilations:
            functions.update(self._functions(name, each, compilation))
        peaks = {
            peak.function + each.suffix: peak
            for each, compilation in compilations
            for peak in compilation.peaks
        }
        self.entries[name] = Component(
            library=f"{name}.so",
            weights_file=f"{name}.safetensors",
            weights=specs,
            functions=functions,
            launches=f"{name}.launches.json",
            kernels=facts.kernels,
            activation_bytes=self.planned[size][name].bytes,
            sources=sources,
            peaks=tuple(
                dataclasses.replace(peak, function=function)
                for function, peak in peaks.items()
                if function in functions
            ),
        )

    def _functions(
        self, name: str, size: Sizes, compilation: pipeline.Compilation
    ) -> dict[str, FunctionSpec]:
        latents, context, suffix = size.latents, self.context, size.suffix
        if name == "text_encoder":
            ids = TensorSpec((1, self.folder.text_length), "int32")
            return {"encode": FunctionSpec((ids,), (context,))}
        if name == "vae_decoder":
            return {f"decode{suffix}": FunctionSpec((latents,), (size.image,))}
        if name == "vae_encoder":
            hole = TensorSpec(size.image.shape[:3], "uint8")
            return {f"encode{suffix}": FunctionSpec((size.image, hole, latents), (latents,))}
        functions = {
            function + suffix * depends_on_size(function): FunctionSpec(
                (_spec(compiled.params[0].ty),), (_spec(compiled.ret_ty),)
            )
            for function in compilation.inputs
            if not function.startswith(("full", "cached"))
            for compiled in (compilation.module[function],)
        }
        parameters = compilation.module["full"].params[: compilation.inputs["full"]]
        inputs = (latents, *(_spec(parameter.ty) for parameter in parameters[1:]))
        features = self._features(size)
        functions[f"full{suffix}"] = FunctionSpec(inputs, (latents, *features))
        functions[f"cached{suffix}"] = FunctionSpec((*inputs, *features), (latents,))
        if self.options.guide_in_one_call:
            noise, *kept = (spec.for_both() for spec in (latents, *features))
            time, context, *others = inputs[1:]
            inputs = latents, time, context.for_both(), *others
            functions[f"full{GUIDED}{suffix}"] = FunctionSpec(inputs, (noise, *kept))
            functions[f"cached{GUIDED}{suffix}"] = FunctionSpec((*inputs, *kept), (noise,))
        return functions

    def _features(self, size: Sizes) -> tuple[TensorSpec, ...]:
        dtype: Any = self.device.compute_dtype
        return tuple(TensorSpec(shape, dtype) for shape in self.unets[size].feature_shapes)

    def _picture_size(self, size: Sizes) -> PictureSize:
        unet, features = self.unets[size], self._features(size)
        return PictureSize(
            image_size=size.image_size,
            latent_size=(size.latent_width, size.latent_height),
            features=features,
            feature_bytes=sum(feature.bytes for feature in features),
            macs_full=unet.macs["full"],
            macs_cached=unet.macs["cached"],
            macs_saved_full=unet.macs_saved["full"],
            macs_saved_cached=unet.macs_saved["cached"],
            macs_guided={
                name: unet.macs[name + GUIDED] for name in ("full", "cached") if name + GUIDED in unet.macs
            },
            storages=plan_in_turns(self.planned[size].values()).storages,
            activation_bytes={
                name: plan.bytes for name, plan in self.planned[size].items() if name != "text_encoder"
            },
        )

    def manifest(self, constants: dict[str, Any]) -> Manifest:
        """The manifest, without the sums of files."""
        tokenizer = self.scratch / "tokenizer"
        tokenizer.mkdir()
        for path in write_tokenizer(self.folder.tokenizer, self.folder.tokenizer_constants, tokenizer):
            self.files[f"tokenizer/{path.name}"] = path
        options = self.options
        macs_once = {
            hoisted.function + size.suffix * depends_on_size(hoisted.function): unet.macs[hoisted.function]
            for size, unet in self.unets.items()
            for hoisted in pipeline.HOISTED
            if hoisted.function in unet.macs
        }
        first, *others = map(self._picture_size, self.sizes)
        return Manifest(
            format_version=FORMAT_VERSION,
            model=self.folder.path.resolve().name,
            model_fingerprint=self.folder.fingerprint(),
            target=options.target,
            device_kind=self.device.kind,  # type: ignore[arg-type]
            profile=self.device.name,
            host=options.host,
            weights=options.weights,  # type: ignore[arg-type]
            image_size=first.image_size,
            latent_size=first.latent_size,
            latent_channels=self.sizes[0].channels,
            inpaints=self.folder.inpaints,
            batch=self.sizes[0].batch,
            cut=options.cut,
            cuts=self.cuts,
            context=self.context,
            features=first.features,
            feature_bytes=first.feature_bytes,
            sampler=from_json(SamplerConstants, constants),
            tokenizer="tokenizer",
            built_with={**versions(), **options.untold()},
            activation_bytes=plan_in_turns(self.planned[self.sizes[0]].values()).bytes,
            macs_full=first.macs_full,
            macs_cached=first.macs_cached,
            macs_once=macs_once,
            macs_saved_full=first.macs_saved_full,
            macs_saved_cached=first.macs_saved_cached,
            macs_guided=first.macs_guided,
            storages=first.storages,
            components=self.entries,
            passes=tuple(self.passes),
            more_sizes=tuple(others),
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
