"""What the loop on the device refuses: numbers, latents, devices, and bundles that were altered."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.manifest import file_entry
from ddimcache.records import to_json
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.session import Session
from tests.runtime.test_bundle import edit, put
from tests.runtime.test_session import IDS, LLVM, NEGATIVE, REQUEST


@pytest.fixture(scope="module")
def session(fake_bundle):
    session = Session(open_bundle(fake_bundle), LLVM)
    yield session
    session.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps: 0 is outside"),
        ({"steps": 1001}, "--steps: 1001 is outside"),
        ({"cache_interval": 0}, "--cache-interval: 0 is below 1"),
        ({"guidance": float("nan")}, "--guidance: nan is no finite number"),
        ({"guidance": -1.0}, "--guidance: -1.0 is no finite number"),
        ({"noise": -1}, "seed: -1 is outside"),
        ({"noise": 2**63}, "seed: 9223372036854775808 is outside"),
        ({"noise": b"123"}, "initial latents: 3 bytes are no float32 numbers"),
        ({"noise": b""}, "initial latents: 0 bytes are no float32 numbers"),
        ({"noise": b"1234"}, "initial latents: 1 numbers, expected 256"),
        (
            {"noise": struct.pack("<f", float("inf")) * 256},
            "initial latents: holds numbers that are not finite",
        ),
        ({"ids": IDS[:-1]}, "prompt: 76 token ids, the text encoder takes 77"),
        ({"negative_ids": [*IDS, 1]}, "negative prompt: 78 token ids, the text encoder takes 77"),
        ({"full_steps": (1, 2)}, "full steps: the first is 1; begin with 0"),
        ({"full_steps": (0, 3, 3)}, "full steps: 3 is not among 4 … 9; name steps of the image, each once"),
        ({"full_steps": (0, 10)}, "full steps: 10 is not among 1 … 9"),
        ({"full_steps": (0, 2**40)}, "full_steps[1]: is larger than any count"),
        ({"ids": [-1] * 77}, "ids[0]: is -1, below the least allowed, 0"),
        ({"ids": [2**40] * 77}, "ids[0]: is larger than any token id"),
    ],
)
def test_draw_refuses(session, change, message):
    with pytest.raises(UsageError) as caught:
        session.draw(replace(REQUEST, **change))
    assert message in str(caught.value)


def test_latents_that_overflowed_are_no_picture(session):
    huge = np.full(session.manifest.latents.shape, 3e38, "<f4").tobytes()
    with pytest.raises(DeviceError, match="after 5 steps hold numbers that are not finite"):
        session.draw(ImageRequest(IDS, NEGATIVE, huge, 5, 1, 7.5))
    assert session.draw(REQUEST).state == "done"


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
        session.draw(REQUEST)


def test_library_without_the_function(own_bundle):
    alter_file(own_bundle, "text_encoder.so", (own_bundle / "vae_decoder.so").read_bytes())
    session = Session(open_bundle(own_bundle), LLVM)
    with pytest.raises(BundleError, match=r"text_encoder.so: cannot be loaded: "):
        session.draw(REQUEST)


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
        session.draw(REQUEST)
    assert message in str(caught.value)


def test_weights_that_are_no_safetensors(own_bundle):
    alter_file(own_bundle, "text_encoder.safetensors", b"\x80\x04pickle?")
    session = Session(open_bundle(own_bundle), LLVM)
    with pytest.raises(BundleError, match=r"text_encoder.safetensors: no safetensors file"):
        session.draw(REQUEST)
