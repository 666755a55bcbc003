"""A bundle of a few kilobytes that honours the component contract, for tests of everything around a model.

The "UNet" is one line of arithmetic, but every part matters to the result: timestep, context, feature and
every weight, so that a wrong order of calls or tensors shows in the picture. :class:`Reference` computes the
same in numpy. Where it is not ``hoisted``, its UNet takes timestep and context as they are, and has no
function that runs before the steps. ``more`` gives it further picture sizes, and ``guided`` functions for
both prompts of guidance at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_safetensors

from ddimcache.compiler.bundle import write_bundle
from ddimcache.kernels.sampler import kernel as sampler_kernels
from ddimcache.launches import Launch, LaunchLists
from ddimcache.manifest import (
    FORMAT_VERSION,
    TIMES_AT_ONCE,
    Component,
    ConsistencySampler,
    FunctionSpec,
    KernelSpec,
    LiveTensor,
    Manifest,
    MemoryPeak,
    NamedTensor,
    PassReport,
    PictureSize,
    SamplerConstants,
    SigmaSampler,
    TensorSpec,
)
from ddimcache.records import to_json
from ddimcache.schedules.threads_to_loops import threads_to_loops

SIDE, CHANNELS, SCALE = 8, 4, 8
LENGTH, WIDTH, VOCABULARY = 77, 6, 64
TIMES = 2
Sizes = tuple[tuple[int, int], ...]
"""(width, height) in latent cells of further picture sizes."""
_BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype="float64") ** 2
_ALPHAS = np.cumprod(1 - _BETAS).tolist()
SAMPLER: dict = {
    "num_train_timesteps": 1000,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "alphas_cumprod": tuple(_ALPHAS),
    "final_alpha_cumprod": _ALPHAS[0],
    "prediction_type": "epsilon",
    "clip_sample": False,
    "clip_sample_range": 1.0,
}
OTHER_SAMPLERS = {
    "euler": SigmaSampler("linspace", 1),
    "dpmpp_2m": SigmaSampler("leading", 1, ends_at_zero=False),
    "lcm": ConsistencySampler(50, 10.0),
}


def half(target: str) -> str:
    """Return the narrow type of the fake: PoCL computes in no float16."""
    return "float16" if target == "llvm" else "float32"


def weights(target: str = "llvm") -> dict[str, dict[str, np.ndarray]]:
    """Return the weights by component and name, in the order of the packed tuple."""
    random = np.random.default_rng(7)
    return {
        "text_encoder": {"embedding": random.standard_normal((VOCABULARY, WIDTH)).astype("float32")},
        "unet": {
            "mix": random.integers(-20, 20, (CHANNELS,)).astype("int8"),
            "gain": np.array([0.21], dtype=half(target)),
            "context": random.standard_normal((WIDTH,)).astype("float32"),
        },
        "vae_decoder": {"colour": (random.standard_normal((3, CHANNELS)) * 40).astype("float32")},
        "vae_encoder": {"channels": (random.standard_normal((3, CHANNELS)) / 100).astype("float32")},
    }


def _suffixes(more: Sizes) -> dict[str, tuple[int, int]]:
    """(width, height) in latent cells of every size, by what the names of its functions end in."""
    return {
        "": (SIDE, SIDE),
        **{f"_{width * SCALE}x{height * SCALE}": (width, height) for width, height in more},
    }


def _kernels(target: str, batch: int, hoisted: bool, images: bool, more: Sizes, guided: bool):
    kernels = {"next_step": sampler_kernels.next_step((1, TIMES) if hoisted else (1,), "float32")}
    for suffix, (width, height) in _suffixes(more).items():
        shape = (batch, CHANNELS, height, width)
        kernels[f"step{suffix}"] = sampler_kernels.step(shape)
        kernels[f"guide_and_step{suffix}"] = sampler_kernels.guide_and_step(shape)
        if guided:
            kernels[f"guide_both_and_step{suffix}"] = sampler_kernels.guide_both_and_step(shape)
        if images:
            kernels[f"keep_picture{suffix}"] = sampler_kernels.keep_picture(shape)
    placed = kernels if target != "llvm" else {name: threads_to_loops(k) for name, k in kernels.items()}
    return {name: kernel.with_attr("global_symbol", name) for name, kernel in placed.items()}


def _modules(target: str, batch: int, hoisted: bool, images: bool, inpaints: bool, more: Sizes, guided: bool):
    from tvm import relax
    from tvm.ir import IRModule
    from tvm.relax import op

    all_weights = weights(target)
    context_type = relax.TensorType((batch, LENGTH, WIDTH), "float32")
    time_type = relax.TensorType((1,), "float32")
    timesteps_type = relax.TensorType((TIMES_AT_ONCE,), "float32")
    times_type = relax.TensorType((1, TIMES), "float32")
    words_type = relax.TensorType((batch, LENGTH, 1), "float32")

    def packed(component: str):
        fields = [
            relax.TensorType(array.shape, array.dtype.name) for array in all_weights[component].values()
        ]
        return relax.Var("params", relax.TupleType(fields))

    def build(component: str, functions: dict):
        builder = relax.BlockBuilder()
        for name, (types, body) in functions.items():
            inputs = [relax.Var(f"x{i}", kind) for i, kind in enumerate(types)]
            params = packed(component)
            with builder.function(name, [*inputs, params]):
                fields = [relax.TupleGetItem(params, i) for i in range(len(all_weights[component]))]
                fields = [builder.emit(field) for field in fields]
                outputs = body(builder, inputs, fields)
                builder.emit_func_output(outputs)
        return builder.get()

    def number(value: float, dtype: str = "float32"):
        return relax.const(value, dtype)

    def mixed(latents, mix, gain):
        factor = op.multiply(op.astype(mix, "float32"), op.astype(gain, "float32"))
        factor = op.reshape(op.multiply(factor, number(0.05)), (1, CHANNELS, 1, 1))
        return op.multiply(latents, factor)

    def project_context(builder, inputs, fields):
        words = op.multiply(inputs[0], op.reshape(fields[2], (1, 1, WIDTH)))
        return builder.emit(op.mean(words, axis=[2], keepdims=True))

    def embed_time(builder, inputs, fields):
        shares = relax.const(np.array([[0.0004, 0.0006]], "float32"))
        return builder.emit(op.multiply(op.reshape(inputs[0], (TIMES_AT_ONCE, 1)), shares))

    def project_surroundings(builder, inputs, fields):
        # Channels do not count alike, so that their order shows.
        shares = relax.const((np.arange(1 + CHANNELS, dtype="float32") + 1).reshape(1, -1, 1, 1) / 40)
        around = op.sum(op.multiply(inputs[0], shares), axis=[1])
        return builder.emit(op.expand_dims(around, 3))

    def beside(noise, around):
        if not around:
            return noise
        return op.add(noise, op.permute_dims(around[0], (0, 3, 1, 2)))

    def full(builder, inputs, fields):
        latents, time, words, *around = inputs
        mix, gain, direction = fields
        if hoisted:
            time = op.sum(time, axis=[1])
        else:
            time = op.multiply(time, number(0.001))
            words = op.multiply(words, op.reshape(direction, (1, 1, WIDTH)))
        words = op.mean(words, axis=[1, 2])
        inner = op.multiply(op.mean(latents, axis=[1], keepdims=True), number(0.5))
        inner = op.add(inner, op.reshape(words, (inputs[2].ty.shape[0], 1, 1, 1)))
        inner = op.add(inner, op.reshape(time, (1, 1, 1, 1)))
        bent = builder.emit(op.astype(op.tanh(inner), half(target)))
        level = op.tanh(op.mean(latents, axis=[1], keepdims=True))
        level = builder.emit(op.astype(level, half(target)))
        noise = with_features(mixed(latents, mix, gain), bent, level)
        return relax.Tuple([builder.emit(builder.normalize(beside(noise, around))), bent, level])

    def with_features(noise, bent, level):
        # Not alike, so that their order shows.
        noise = op.add(noise, op.astype(bent, "float32"))
        return op.add(noise, op.multiply(op.astype(level, "float32"), number(0.125)))

    def cached(builder, inputs, fields):
        latents, _, _, *around, bent, level = inputs
        noise = with_features(mixed(latents, *fields[:2]), bent, level)
        return builder.emit(beside(noise, around))

    def of_both(body):
        """What ``body`` makes for both prompts of latents, and surroundings, that they share."""

        def twice(builder, inputs, fields):
            shared = [0, 3] if inpaints else [0]
            given = [op.concat([x, x], axis=0) if n in shared else x for n, x in enumerate(inputs)]
            return body(builder, [builder.emit(x) for x in given], fields)

        return twice

    def encode(builder, inputs, fields):
        return builder.emit(op.take(fields[0], inputs[0], axis=0, mode="clip"))

    def decode(builder, inputs, fields):
        colour = op.reshape(fields[0], (1, 3, CHANNELS, 1, 1))
        pixels = op.sum(op.multiply(op.expand_dims(inputs[0], 1), colour), axis=[2])
        pixels = op.repeat(op.repeat(pixels, SCALE, axis=2), SCALE, axis=3)
        pixels = op.permute_dims(op.add(pixels, number(127.5)), (0, 2, 3, 1))
        return builder.emit(op.astype(op.round(op.clip(pixels, 0, 255)), "uint8"))

    def encode_image(builder, inputs, fields):
        _, _, height, width = (int(extent) for extent in inputs[2].ty.shape.values)
        seen = op.subtract(number(1), op.astype(op.expand_dims(inputs[1], 3), "float32"))
        picture = op.multiply(op.astype(inputs[0], "float32"), seen)
        picture = op.reshape(picture, (batch, height, SCALE, width, SCALE, 3))
        cells = op.reshape(op.mean(picture, axis=[2, 4]), (batch, height, width, 3, 1))
        latents = op.sum(op.multiply(cells, op.reshape(fields[0], (1, 1, 1, 3, CHANNELS))), axis=[3])
        noise = op.multiply(inputs[2], number(0.1))
        return builder.emit(op.add(op.permute_dims(latents, (0, 3, 1, 2)), noise))

    ids_type = relax.TensorType((1, LENGTH), "int32")
    conditions = [times_type, words_type] if hoisted else [time_type, context_type]
    functions, decoders, encoders = {}, {}, {}
    for suffix, (width, height) in _suffixes(more).items():
        latents_type = relax.TensorType((batch, CHANNELS, height, width), "float32")
        feature_type = relax.TensorType((batch, 1, height, width), half(target))
        image_type = relax.TensorType((batch, height * SCALE, width * SCALE, 3), "uint8")
        hole_type = relax.TensorType((batch, height * SCALE, width * SCALE), "uint8")
        given = [latents_type, *conditions]
        if inpaints:
            surroundings_type = relax.TensorType((batch, 1 + CHANNELS, height, width), "float32")
            functions[f"project_surroundings{suffix}"] = ([surroundings_type], project_surroundings)
            given.append(relax.TensorType((batch, height, width, 1), "float32"))
        functions[f"full{suffix}"] = (given, full)
        functions[f"cached{suffix}"] = ([*given, feature_type, feature_type], cached)
        if guided:
            kept = relax.TensorType((2 * batch, 1, height, width), half(target))
            lead, *sides = (int(extent) for extent in given[2].shape.values)
            given = [*given[:2], relax.TensorType((2 * lead, *sides), "float32"), *given[3:]]
            functions[f"full_guided{suffix}"] = (given, of_both(full))
            functions[f"cached_guided{suffix}"] = ([*given, kept, kept], of_both(cached))
        decoders[f"decode{suffix}"] = ([latents_type], decode)
        encoders[f"encode{suffix}"] = ([image_type, hole_type, latents_type], encode_image)
    if hoisted:
        functions["embed_time"] = ([timesteps_type], embed_time)
        functions["project_context"] = ([context_type], project_context)
    unet = build("unet", functions)
    kernels = _kernels(target, batch, hoisted, images, more, guided)
    unet = IRModule({**dict(unet.functions_items()), **kernels}, attrs=unet.attrs)
    modules = {
        "text_encoder": build("text_encoder", {"encode": ([ids_type], encode)}),
        "unet": unet,
        "vae_decoder": build("vae_decoder", decoders),
    }
    if images:
        modules["vae_encoder"] = build("vae_encoder", encoders)
    return modules


def libraries(
    folder: Path,
    target: str = "llvm",
    batch: int = 1,
    hoisted: bool = True,
    images: bool = False,
    inpaints: bool = False,
    more: Sizes = (),
    guided: bool = False,
) -> dict[str, Path]:
    """Compile the libraries into ``folder`` for a target kind and return their paths by component."""
    import tvm
    from tvm import relax
    from tvm.s_tir import dlight

    kind = tvm.target.Target(target, host="llvm") if target != "llvm" else tvm.target.Target("llvm")
    paths = {}
    for name, module in _modules(target, batch, hoisted, images, inpaints, more, guided).items():
        module = relax.transform.LegalizeOps()(module)
        if target != "llvm":
            with kind:
                module = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(module)
        paths[name] = folder / f"{name}.so"
        tvm.compile(module, kind).export_library(str(paths[name]))
    return paths


def launches(
    component: str,
    hoisted: bool = True,
    images: bool = False,
    inpaints: bool = False,
    more: Sizes = (),
    guided: bool = False,
) -> LaunchLists:
    """Return the launches that the manifest speaks of, one a function."""
    launch = Launch(f"{component}_main", "conv_in", 64, 128, 1024, 2048, (2, SIDE), "float32")
    whole = manifest(hoisted=hoisted, images=images, inpaints=inpaints, more=more, guided=guided)
    functions = whole.components[component].functions
    return LaunchLists(dict.fromkeys(functions, (launch,)))


def manifest(
    target: str = "llvm",
    batch: int = 1,
    hoisted: bool = True,
    images: bool = False,
    inpaints: bool = False,
    more: Sizes = (),
    guided: bool = False,
) -> Manifest:
    """Return the manifest of the fake, without files."""
    context = TensorSpec((batch, LENGTH, WIDTH), "float32")
    time, ids = TensorSpec((1,), "float32"), TensorSpec((1, LENGTH), "int32")
    once = {}
    if hoisted:
        timesteps = TensorSpec((TIMES_AT_ONCE,), "float32")
        times, words = (
            TensorSpec((TIMES_AT_ONCE, TIMES), "float32"),
            TensorSpec((batch, LENGTH, 1), "float32"),
        )
        once["embed_time"] = FunctionSpec((timesteps,), (times,))
        once["project_context"] = FunctionSpec((context,), (words,))
        time, context = TensorSpec((1, TIMES), "float32"), words
    for suffix, (width, height) in _suffixes(more).items() if inpaints else ():
        surroundings = TensorSpec((batch, 1 + CHANNELS, height, width), "float32")
        around = TensorSpec((batch, height, width, 1), "float32")
        once[f"project_surroundings{suffix}"] = FunctionSpec((surroundings,), (around,))
    functions = {
        "text_encoder": {"encode": FunctionSpec((ids,), (TensorSpec((1, LENGTH, WIDTH), "float32"),))},
        "unet": dict(once),
        "vae_decoder": {},
        **({"vae_encoder": {}} if images else {}),
    }
    sizes = []
    for suffix, (width, height) in _suffixes(more).items():
        latents = TensorSpec((batch, CHANNELS, height, width), "float32")
        features = 2 * (TensorSpec((batch, 1, height, width), half(target)),)
        image = TensorSpec((batch, height * SCALE, width * SCALE, 3), "uint8")
        inputs = (latents, time, context)
        if inpaints:
            inputs = (*inputs, *once[f"project_surroundings{suffix}"].outputs)
        functions["unet"][f"full{suffix}"] = FunctionSpec(inputs, (latents, *features))
        functions["unet"][f"cached{suffix}"] = FunctionSpec((*inputs, *features), (latents,))
        if guided:
            both, *kept = (spec.for_both() for spec in (latents, *features))
            inputs = (*inputs[:2], context.for_both(), *inputs[3:])
            functions["unet"][f"full_guided{suffix}"] = FunctionSpec(inputs, (both, *kept))
            functions["unet"][f"cached_guided{suffix}"] = FunctionSpec((*inputs, *kept), (both,))
        functions["vae_decoder"][f"decode{suffix}"] = FunctionSpec((latents,), (image,))
        if images:
            hole = TensorSpec(image.shape[:3], "uint8")
            functions["vae_encoder"][f"encode{suffix}"] = FunctionSpec((image, hole, latents), (latents,))
        share = width * height // SIDE
        planned = {name: 128 * share for name in functions if name != "text_encoder"}
        sizes.append(
            PictureSize(
                image_size=(width * SCALE, height * SCALE),
                latent_size=(width, height),
                features=features,
                feature_bytes=sum(feature.bytes for feature in features),
                macs_full=125 * share,
                macs_cached=100 * share // SIDE,
                macs_saved_full=30,
                macs_saved_cached=20,
                storages=(96 * share, 32 * share),
                activation_bytes=planned,
                macs_guided={"full": 240 * share, "cached": 190 * share // SIDE} if guided else {},
            )
        )
    first = sizes[0]
    components = {
        name: Component(
            library=f"{name}.so",
            weights_file=f"{name}.safetensors",
            weights=tuple(
                NamedTensor(key, array.shape, array.dtype.name)
                for key, array in weights(target)[name].items()
            ),
            functions=functions[name],
            launches=f"{name}.launches.json",
            kernels=(KernelSpec(f"{name}_main", dict.fromkeys(functions[name], 1), 64),),
            activation_bytes=1024,
            sources=f"{name}.kernels.json",
            peaks=tuple(
                MemoryPeak(function, 512, (LiveTensor(f"{name}_main", (2, 64), 512),))
                for function in functions[name]
            ),
        )
        for name in functions
    }
    return Manifest(
        format_version=FORMAT_VERSION,
        model="fake",
        model_fingerprint="0" * 64,
        target=target,
        device_kind="llvm" if target == "llvm" else "opencl",
        profile=target,
        host="x86_64-linux-gnu",
        weights="int8",
        image_size=first.image_size,
        latent_size=first.latent_size,
        latent_channels=CHANNELS,
        inpaints=inpaints,
        batch=batch,
        cut=0,
        cuts=3,
        context=TensorSpec((1, LENGTH, WIDTH), "float32"),
        features=first.features,
        feature_bytes=first.feature_bytes,
        sampler=SamplerConstants(**SAMPLER, **OTHER_SAMPLERS),
        tokenizer="tokenizer",
        built_with={"ddimcache": "0.1.0"},
        activation_bytes=3072,
        macs_full=first.macs_full,
        macs_cached=first.macs_cached,
        macs_once=dict.fromkeys(once, 50),
        macs_saved_full=30,
        macs_saved_cached=20,
        storages=first.storages,
        components=components,
        passes=(PassReport("FuseNothing", "unet", 0, note="left everything alone"),),
        more_sizes=tuple(sizes[1:]),
        macs_guided=first.macs_guided,
    )


def tokenizer_files() -> dict[str, bytes]:
    """Return a tokenizer of single letters, by name inside the bundle."""
    import tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing

    alphabet = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {entry: index for index, entry in enumerate([*alphabet, start, end])}
    tokenizer = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=end))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    constants = {
        "max_length": LENGTH,
        "bos_id": vocabulary[start],
        "eos_id": vocabulary[end],
        "pad_id": vocabulary[end],
        "pad_token": end,
    }
    return {
        "tokenizer/tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer/tokenizer_constants.json": json.dumps(constants).encode(),
    }


def build_fake_bundle(
    folder: Path,
    scratch: Path,
    target: str = "llvm",
    batch: int = 1,
    hoisted: bool = True,
    images: bool = False,
    inpaints: bool = False,
    more: Sizes = (),
    guided: bool = False,
) -> Path:
    """Compile the fake and write it as a bundle to ``folder``; ``scratch`` is an existing folder."""
    built = libraries(scratch, target, batch, hoisted, images, inpaints, more, guided)
    whole = manifest(target, batch, hoisted, images, inpaints, more, guided)
    return _write(folder, whole, built, hoisted, images, inpaints, more, guided)


def write_unbuilt_bundle(
    folder: Path, images: bool = False, inpaints: bool = False, more: Sizes = ()
) -> Path:
    """Write the fake to ``folder`` with libraries that nothing can load, to be looked at only."""
    whole = manifest(images=images, inpaints=inpaints, more=more)
    return _write(folder, whole, dict.fromkeys(whole.components, b"none"), True, images, inpaints, more)


def _write(folder: Path, whole: Manifest, built: Mapping[str, bytes | Path], *options: bool | Sizes) -> Path:
    files: dict[str, bytes | Path] = dict(tokenizer_files())
    for name, library in built.items():
        files[f"{name}.so"] = library
        files[f"{name}.safetensors"] = save_safetensors(weights(whole.target)[name])
        files[f"{name}.launches.json"] = json.dumps(to_json(launches(name, *options))).encode()
        files[f"{name}.kernels.json"] = json.dumps({f"{name}_main": f"void {name}_main();"}).encode()
    write_bundle(folder, whole, files)
    return folder


@dataclass
class Reference:
    """The fake in numpy float32."""

    context: dict[bool, np.ndarray]
    target: str = "llvm"

    @classmethod
    def of(cls, ids: list[int], negative: list[int], target: str = "llvm") -> "Reference":
        embedding = weights()["text_encoder"]["embedding"]
        return cls({False: embedding[ids], True: embedding[negative]}, target)

    def feature(self, latents: np.ndarray, time: float, negative: bool) -> np.ndarray:
        """Return what the two tensors that a full step leaves add to the noise, [B, 1, h, w] float32."""
        words = (self.context[negative] * weights()["unet"]["context"]).mean(dtype="float32")
        level = latents.mean(axis=1, keepdims=True)
        inner = level * np.float32(0.5) + words + np.float32(time * 0.001)
        bent, level = (np.tanh(kept).astype(half(self.target)).astype("float32") for kept in (inner, level))
        return bent + level * np.float32(0.125)

    def around(self, surroundings: np.ndarray) -> np.ndarray:
        """Return what the UNet adds for surroundings [B, 5, h, w], [B, 1, h, w]."""
        shares = (np.arange(1 + CHANNELS, dtype="float32") + 1).reshape(1, -1, 1, 1) / 40
        return (surroundings * shares).sum(axis=1, keepdims=True)

    def noise(self, latents: np.ndarray, feature: np.ndarray) -> np.ndarray:
        """Return the predicted noise [B, 4, h, w] float32."""
        unet = weights(self.target)["unet"]
        factor = unet["mix"].astype("float32") * unet["gain"].astype("float32") * np.float32(0.05)
        return latents * factor.reshape(1, CHANNELS, 1, 1) + feature

    def encoded(self, picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the latents [1, 4, h, w] float32 of a picture [H, W, 3] uint8."""
        height, width, _ = picture.shape
        cells = picture.reshape(height // SCALE, SCALE, width // SCALE, SCALE, 3)
        cells = cells.mean(axis=(1, 3), dtype="float32")
        latents = np.einsum("yxd,dc->cyx", cells, weights()["vae_encoder"]["channels"])
        return (latents[None] + np.float32(0.1) * noise).astype("float32")

    def image(self, latents: np.ndarray) -> np.ndarray:
        """Return the picture [B, H, W, 3] uint8."""
        pixels = np.einsum("bchw,dc->bdhw", latents, weights()["vae_decoder"]["colour"])
        pixels = pixels.repeat(SCALE, axis=2).repeat(SCALE, axis=3).transpose(0, 2, 3, 1) + np.float32(127.5)
        return np.round(pixels.clip(0, 255)).astype("uint8")
