"""Both prompts of guidance in one call of the UNet: the pictures of two calls, in every mode and size."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ddimcache.errors import BundleError
from ddimcache.records import to_json
from ddimcache.runtime.bundle import open_bundle, parse_manifest
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import MEMORY_MODES, ImageRequest, MemoryChoice
from ddimcache.runtime.noise import noise
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.runtime.test_bundle import put, remove
from tests.runtime.test_bundle_sizes import check_in_cpp
from tests.runtime.test_session import IDS, NEGATIVE, REQUEST, expected_latents

MORE = ((12, 6),)


def build(folder, target="llvm", **choices):
    return open_bundle(fake.build_fake_bundle(folder / "bundle", folder, target, guided=True, **choices))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return build(tmp_path_factory.mktemp("guided"), more=MORE)


def check(session, request, target="llvm", cells=(fake.SIDE, fake.SIDE)):
    width, height = cells
    size = (width * fake.SCALE, height * fake.SCALE)
    done = session.draw(replace(request, size=size))
    start = noise(request.noise, (1, fake.CHANNELS, height, width))
    expected = expected_latents(start, request.steps, request.cache_interval, request.guidance, target)
    # Where features are float16 they may be rounded to either side, and guidance multiplies that.
    np.testing.assert_allclose(done.picture.latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return done


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 7.5])
@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (10, 1), (10, 3)])
def test_same_as_numpy(bundle, steps, interval, guidance):
    session = Session(bundle, DeviceSpec("llvm"))
    for cells in ((fake.SIDE, fake.SIDE), *MORE):
        check(session, ImageRequest(IDS, NEGATIVE, 11, steps, interval, guidance), cells=cells)
    session.close()


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_guided_images_and_others_in_turns(bundle, mode):
    session = Session(bundle, DeviceSpec("llvm"), MemoryChoice(mode))
    for guidance in (7.5, 1.0, 3.0, 0.0):
        check(session, replace(REQUEST, guidance=guidance))
    session.close()


def test_without_functions_before_the_steps(tmp_path):
    session = Session(build(tmp_path, hoisted=False), DeviceSpec("llvm"))
    check(session, REQUEST)
    check(session, replace(REQUEST, guidance=1.0))
    session.close()


def test_several_pictures_at_once(tmp_path):
    session = Session(build(tmp_path, batch=3), DeviceSpec("llvm"))
    done = session.draw(REQUEST)
    for picture, latents in enumerate(done.picture.latents):
        start = noise(11, (3, fake.CHANNELS, fake.SIDE, fake.SIDE))[picture : picture + 1]
        expected = expected_latents(start, REQUEST.steps, REQUEST.cache_interval, REQUEST.guidance)
        np.testing.assert_allclose(latents, expected[0], rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    session.close()


@pytest.mark.opencl
def test_recorded_steps(tmp_path):
    session = Session(build(tmp_path, "opencl"), DeviceSpec("opencl"))
    for guidance in (7.5, 1.0, 7.5):
        done = check(session, replace(REQUEST, guidance=guidance), "opencl")
        assert done.replayed_steps == REQUEST.steps - 2
    session.close()


@pytest.fixture(params=["python", "cpp"])
def reading(request):
    """One of the two readers of a manifest."""
    return {"python": parse_manifest, "cpp": check_in_cpp}[request.param]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("macs_guided", "full"), "macs_guided: of cached, expected cached, full"),
        (put("macs_guided", "other", 3), "macs_guided: of cached, full, other, expected cached, full"),
        (put("macs_guided", "full", -3), "macs_guided.full: is -3, below the least"),
        (put("macs_guided", {}), "more_sizes: 96x48: macs_guided: of cached, full, expected none"),
        (
            put("more_sizes", 0, "macs_guided", {}),
            "more_sizes: 96x48: macs_guided: of none, expected cached, full",
        ),
        (remove("components", "unet", "functions", "full_guided"), "function 'full_guided' is missing"),
        (
            remove("components", "unet", "functions", "cached_guided_96x48"),
            "function 'cached_guided_96x48' is missing",
        ),
        (
            put("components", "unet", "functions", "full_guided", "inputs", 2, "shape", [1, 77, 1]),
            "full_guided: (float32[1, 4, 8, 8], float32[1, 2], float32[1, 77, 1]) →",
        ),
    ],
)
def test_wrong_manifest(reading, change, message):
    value = to_json(fake.manifest(more=MORE, guided=True))
    change(value)
    with pytest.raises(BundleError) as caught:
        reading(json.dumps(value))
    assert message in str(caught.value)
