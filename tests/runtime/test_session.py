"""The loop on the device: held against numpy, counted, timed, and refused in words."""

import ast
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.manifest import TensorSpec, file_entry
from ddimcache.records import to_json
from ddimcache.runtime import rpc
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest, run_image
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.sampler import schedule
from ddimcache.runtime.session import Session, initial_latents
from tests.fakes import fake_bundle as fake
from tests.runtime.test_bundle import edit, put

LLVM = DeviceSpec("llvm")
IDS = [index % fake.VOCABULARY for index in range(fake.LENGTH)]
NEGATIVE = [(3 * index + 1) % fake.VOCABULARY for index in range(fake.LENGTH)]


@pytest.fixture(scope="module")
def session(fake_bundle):
    session = Session(open_bundle(fake_bundle), LLVM)
    session.encode(IDS)
    session.encode(NEGATIVE, negative=True)
    return session


def expected_latents(latents, steps, interval, guidance, target="llvm"):
    """The loop in numpy float32, on the same kernels' formula."""
    reference = fake.Reference.of(IDS, NEGATIVE, target)
    features = {}
    for step in schedule(fake.SAMPLER, steps, interval):
        c = step.coefficients
        if step.is_full:
            features = {
                negative: reference.feature(latents, step.timestep, negative) for negative in (False, True)
            }
        noise = reference.noise(latents, features[False])
        if guidance > 1:
            without = reference.noise(latents, features[True])
            noise = without + np.float32(guidance) * (noise - without)
        latents = c.a * (c.p * latents + c.q * noise) + c.b * (c.r * latents + c.s * noise)
        latents = latents.astype("float32")
    return latents


def run_to_the_end(session, total, chunk=3):
    while session.run(chunk) < total:
        pass
    return np.frombuffer(session.latents(), "<f4").reshape(session.manifest.latents.shape)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (10, 1), (10, 3), (7, 20)])
def test_same_as_numpy(session, steps, interval, guidance):
    total = session.start(11, steps, interval, guidance)
    latents = run_to_the_end(session, total)
    expected = expected_latents(initial_latents(11, session.manifest.latents), steps, interval, guidance)
    np.testing.assert_allclose(latents, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    image = np.frombuffer(session.decode(), "uint8").reshape(session.manifest.image.shape)
    np.testing.assert_array_equal(image, fake.Reference.of(IDS, NEGATIVE).image(latents))
    timings = session.timings()
    full = -(-steps // interval)
    assert (timings["full_steps"], timings["cached_steps"]) == (full, steps - full)


@pytest.mark.opencl
@pytest.mark.parametrize("batch", [1, 2])
def test_same_as_numpy_on_opencl(tmp_path, batch):
    bundle = open_bundle(fake.build_fake_bundle(tmp_path / "bundle", tmp_path, "opencl", batch))
    session = Session(bundle, DeviceSpec("opencl"))
    session.encode(IDS)
    session.encode(NEGATIVE, negative=True)
    latents = run_to_the_end(session, session.start(11, 10, 3, 7.5))
    expected = expected_latents(initial_latents(11, bundle.manifest.latents), 10, 3, 7.5, "opencl")
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert len(session.decode()) == batch * 64 * 64 * 3
    assert bundle.manifest.weights_bytes < session.peak_bytes < 10_000_000


def test_chunks_do_not_change_the_picture(session):
    first = run_to_the_end(session, session.start(3, 10, 4, 7.5), chunk=1)
    second = run_to_the_end(session, session.start(3, 10, 4, 7.5), chunk=100)
    assert first.tobytes() == second.tobytes()


def test_latents_in_place_of_a_seed(session):
    first = run_to_the_end(session, session.start(3, 5, 2, 7.5))
    noise = initial_latents(3, session.manifest.latents).tobytes()
    second = run_to_the_end(session, session.start(noise, 5, 2, 7.5))
    assert first.tobytes() == second.tobytes()


def test_noise_of_a_seed_is_pinned():
    noise = initial_latents(0, TensorSpec((1, 4, 8, 8), "float32"))
    assert noise.dtype == np.float32
    # PCG64's stream is frozen by numpy: a change here changes every picture that a seed names.
    np.testing.assert_allclose(noise.ravel()[:3], [1.117622, -1.387125, -0.426572], atol=1e-6)


def test_times_are_of_this_image_and_add_up(session):
    run_to_the_end(session, session.start(3, 6, 3, 7.5))
    session.decode()
    timings = session.timings()
    seconds = timings["seconds"]
    assert set(seconds) == {"text", "denoise", "decode", "total"}
    assert 0 < seconds["text"] + seconds["denoise"] + seconds["decode"] <= seconds["total"]
    assert timings["seconds_full_step"] > 0
    assert timings["seconds_cached_step"] > 0
    session.start(3, 6, 6, 7.5)
    assert session.timings()["full_steps"] == 0
    assert session.timings()["seconds_full_step"] is None
    assert session.timings()["seconds"]["total"] < 1


def test_run_image_reports_every_step(fake_bundle):
    steps = []

    class Recorder(SilentProgress):
        def stage(self, name, total):
            class Stage:
                def advance(self, count=1, note=""):
                    steps.append((name, count))

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    return None

            return Stage()

    session = Session(open_bundle(fake_bundle), LLVM)
    picture = run_image(session, ImageRequest(IDS, NEGATIVE, 1, 30, 5, 7.5), Recorder())
    assert picture.pixels.shape == (1, 64, 64, 3)
    assert picture.latents.shape == (1, 4, 8, 8)
    assert sum(count for name, count in steps if name == "denoise") == 30
    assert [name for name, _ in steps][:2] == ["text", "text"]
    session.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0, 1, 7.5), "--steps: 0 is outside"),
        ((1, 1001, 1, 7.5), "--steps: 1001 is outside"),
        ((1, 10, 0, 7.5), "--cache-interval: 0 is below 1"),
        ((1, 10, 1, float("nan")), "--guidance: nan is no finite number"),
        ((1, 10, 1, -1.0), "--guidance: -1.0 is no finite number"),
        ((-1, 10, 1, 7.5), "seed: -1 is outside"),
        ((2**63, 10, 1, 7.5), "seed: 9223372036854775808 is outside"),
        ((b"123", 10, 1, 7.5), "initial latents: 3 bytes, expected 1024"),
        (
            (struct.pack("<f", float("inf")) * 256, 10, 1, 7.5),
            "initial latents: holds numbers that are not fin",
        ),
    ],
)
def test_start_refuses(session, arguments, message):
    with pytest.raises(UsageError) as caught:
        session.start(*arguments)
    assert message in str(caught.value)


def test_order_of_calls(fake_bundle):
    session = Session(open_bundle(fake_bundle), LLVM)
    with pytest.raises(UsageError, match="start an image first"):
        session.run(1)
    with pytest.raises(UsageError, match="encode the prompt first"):
        session.start(1, 1, 1, 1.0)
    session.encode(IDS)
    with pytest.raises(UsageError, match="encode the negative prompt first"):
        session.start(1, 1, 1, 7.5)
    with pytest.raises(UsageError, match="76 token ids, the text encoder takes 77"):
        session.encode(IDS[:-1])


def test_latents_that_overflowed_are_no_picture(session):
    huge = np.full(session.manifest.latents.shape, 3e38, "<f4").tobytes()
    total = session.start(huge, 5, 1, 7.5)
    run_to_the_end(session, total)
    with pytest.raises(DeviceError, match="hold numbers that are not finite"):
        session.decode()


def test_device_of_another_kind(fake_bundle):
    with pytest.raises(
        DeviceError, match=r"device opencl: the bundle was compiled for llvm; run it with --dev"
    ):
        Session(open_bundle(fake_bundle), DeviceSpec("opencl"))


def alter_file(bundle, name, content):
    """Put other bytes into a file, with the sum that goes with them."""
    (bundle / name).write_bytes(content)
    edit(bundle, put("files", name, to_json(file_entry(bundle / name))))


def test_library_that_is_none(own_bundle):
    alter_file(own_bundle, "text_encoder.so", b"not a library")
    session = Session(open_bundle(own_bundle), LLVM)
    with pytest.raises(BundleError, match=r"text_encoder.so: cannot be loaded: .*compiled for host x86_64"):
        session.encode(IDS)


def test_library_without_the_function(own_bundle):
    alter_file(own_bundle, "text_encoder.so", (own_bundle / "vae_decoder.so").read_bytes())
    session = Session(open_bundle(own_bundle), LLVM)
    with pytest.raises(BundleError, match=r"text_encoder.so: cannot be loaded: "):
        session.encode(IDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "more": w["embedding"]}, "weight 'more' is not in the manifest"),
        (lambda w: {}, "weight 'embedding' is in the manifest but not in the file"),
        (
            lambda w: {"embedding": w["embedding"][1:].copy()},
            "weight 'embedding' is float32[63, 6], the manifest",
        ),
        (lambda w: {"embedding": w["embedding"].astype("float16")}, "weight 'embedding' is float16[64, 6]"),
    ],
)
def test_weights_that_do_not_fit(own_bundle, change, message):
    path = own_bundle / "text_encoder.safetensors"
    save_file(change(load_file(path)), path)
    alter_file(own_bundle, path.name, path.read_bytes())
    session = Session(open_bundle(own_bundle), LLVM)
    with pytest.raises(BundleError) as caught:
        session.encode(IDS)
    assert message in str(caught.value)


def test_weights_that_are_no_safetensors(own_bundle):
    alter_file(own_bundle, "text_encoder.safetensors", b"\x80\x04pickle?")
    session = Session(open_bundle(own_bundle), LLVM)
    with pytest.raises(BundleError, match=r"text_encoder.safetensors: no safetensors file"):
        session.encode(IDS)


def test_runtime_imports_nothing_of_the_compiler():
    """A phone has the runtime alone."""
    folder = Path(rpc.__file__).parent
    imported = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    assert "ddimcache.errors" in imported
    forbidden = (
        "ddimcache.compiler",
        "ddimcache.kernels",
        "ddimcache.schedules",
        "torch",
        "diffusers",
        "transformers",
    )
    assert [name for name in sorted(imported) if name.startswith(forbidden)] == []
