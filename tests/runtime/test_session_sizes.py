"""One bundle of several picture sizes: each is drawn as it should be, in any order."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ddimcache.errors import UsageError
from ddimcache.runtime import rpc
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec, memory_use
from ddimcache.runtime.image import MEMORY_MODES, ImageRequest, MemoryChoice
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import RunningServer
from tests.runtime.test_session import IDS, NEGATIVE, expected_latents

MORE = ((12, 6), (6, 12), (2, 4))
SIZES = [(fake.SIDE, fake.SIDE), *MORE]
REQUEST = ImageRequest(IDS, NEGATIVE, 11, 10, 3, 7.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    return open_bundle(fake.build_fake_bundle(folder / "bundle", folder, images=True, more=MORE))


@pytest.fixture(scope="module")
def opencl_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opencl-sizes")
    return open_bundle(fake.build_fake_bundle(folder / "bundle", folder, "opencl", more=MORE[:1]))


def pixels(cells):
    return tuple(side * fake.SCALE for side in cells)


def check(session, cells, target="llvm", **changes):
    width, height = cells
    done = session.draw(replace(REQUEST, size=pixels(cells), **changes))
    assert done.size == pixels(cells)
    request = replace(REQUEST, **changes)
    start = noise(request.noise, (1, fake.CHANNELS, height, width))
    expected = expected_latents(start, request.steps, request.cache_interval, request.guidance, target)
    assert done.picture.latents.shape == expected.shape
    np.testing.assert_allclose(done.picture.latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert done.picture.pixels.shape == (1, *pixels((height, width)), 3)
    if target == "llvm":
        image = fake.Reference.of(IDS, NEGATIVE).image(done.picture.latents)
        np.testing.assert_array_equal(done.picture.pixels, image)
    return done.picture.latents.tobytes()


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_sizes_in_turns_are_those_of_numpy(bundle, mode):
    session = Session(bundle, DeviceSpec("llvm"), MemoryChoice(mode))
    for cells in [*SIZES, *SIZES[::-1]]:
        check(session, cells)
    session.close()


def test_without_a_size_the_first_one_is_drawn(bundle):
    session = Session(bundle, DeviceSpec("llvm"))
    check(session, MORE[0])
    assert session.draw(REQUEST).size == pixels(SIZES[0])
    assert session.draw(REQUEST).picture.latents.tobytes() == check(session, SIZES[0])
    session.close()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((96, 96), "--size: the bundle makes no pictures of 96x96, only of 64x64, 96x48, 48x96, 16x32"),
        ((48, 64), "no pictures of 48x64"),
        ((0, 64), r"size\[0\]"),
        ((64, -1), r"size\[1\]"),
    ],
)
def test_a_size_that_is_not_there_is_refused(bundle, size, message):
    session = Session(bundle, DeviceSpec("llvm"))
    with pytest.raises(UsageError, match=message):
        session.draw(replace(REQUEST, size=size))
    check(session, SIZES[1])
    session.close()


def test_latents_and_pictures_of_another_size_are_refused(bundle):
    session = Session(bundle, DeviceSpec("llvm"))
    latents = noise(3, (1, fake.CHANNELS, 6, 12)).astype("<f4").tobytes()
    with pytest.raises(UsageError, match="initial latents: 288 numbers, expected 256"):
        session.draw(replace(REQUEST, noise=latents))
    session.draw(replace(REQUEST, noise=latents, size=(96, 48)))
    with pytest.raises(UsageError, match="--image: 13824 bytes, a picture of this size has 12288"):
        session.draw(replace(REQUEST, image=bytes(13824)))
    session.close()


def test_a_picture_to_begin_with_has_the_size_that_is_drawn(bundle):
    session = Session(bundle, DeviceSpec("llvm"))
    random = np.random.default_rng(5)
    for width, height in SIZES:
        picture = random.integers(0, 256, (height * fake.SCALE, width * fake.SCALE, 3), np.uint8)
        request = replace(REQUEST, size=pixels((width, height)), image=picture.tobytes(), strength=1.0)
        done = session.draw(request)
        numbers = noise(11, (2, fake.CHANNELS, height, width))
        encoded = fake.Reference.of(IDS, NEGATIVE).encoded(picture, numbers[1:])
        # What a step of all steps begins with holds next to nothing of the picture, one of the last much.
        assert done.picture.latents.shape == encoded.shape
        late = session.draw(replace(request, strength=0.1)).picture.latents
        alpha = fake.SAMPLER["alphas_cumprod"][1]
        begun = np.sqrt(alpha) * encoded + np.sqrt(1 - alpha) * numbers[:1]
        assert np.abs(late - begun).max() < 0.1 * np.abs(begun).max()
    session.close()


def test_previews_have_the_size_that_is_drawn(bundle):
    session = Session(bundle, DeviceSpec("llvm"))
    session.draw(replace(REQUEST, size=(96, 48), steps=1000), 0.0)
    shapes = set()
    while (answer := session.poll(0.05, preview=True)).state != "done":
        assert answer.size == (96, 48)
        if answer.preview is not None:
            shapes.add(answer.preview.shape)
    assert shapes <= {(1, fake.CHANNELS, 6, 12)}
    session.close()


@pytest.mark.opencl
@pytest.mark.parametrize("mode", ["resident", "pipelined"])
def test_recordings_of_a_size_are_not_those_of_another(opencl_bundle, mode):
    """What was recorded of a size goes with it, and nothing stays on the device when sizes come and go."""
    session = Session(opencl_bundle, DeviceSpec("opencl"), MemoryChoice(mode))
    in_use, bits = [], {}
    for _ in range(3):
        for cells, guidance in itertools.product(SIZES[:2], (1.0, 7.5)):
            drawn = check(session, cells, "opencl", guidance=guidance)
            assert bits.setdefault((cells, guidance), drawn) == drawn
        use = memory_use()
        in_use.append((use.live_buffers, use.current_bytes))
    assert len(set(in_use)) == 1
    session.close()
    plain = Session(opencl_bundle, DeviceSpec("opencl"), replay=False)
    for (cells, guidance), expected in bits.items():
        assert check(plain, cells, "opencl", guidance=guidance) == expected
    plain.close()


def test_the_estimate_is_that_of_the_largest_size(tmp_path, bundle):
    both = Session(bundle, DeviceSpec("llvm"))
    large = fake.build_fake_bundle(tmp_path / "large", tmp_path, images=True)
    single = Session(open_bundle(large), DeviceSpec("llvm"))
    # 12 x 6 cells are more than 8 x 8.
    assert both.memory_estimate > single.memory_estimate
    both.close()
    single.close()


def test_sizes_over_rpc_are_those_of_here(bundle, tmp_path):
    server = RunningServer(tmp_path / "store")
    remote = rpc.connect(server.address)
    session, here = remote.open(bundle, SilentProgress()), Session(bundle, DeviceSpec("llvm"))
    for cells in SIZES:
        assert check(session, cells) == check(here, cells)
    with pytest.raises(UsageError, match="no pictures of 40x40"):
        session.draw(replace(REQUEST, size=(40, 40)))
    check(session, SIZES[2])
    session.close()
    here.close()
    remote.close()
    assert server.stop()[0] == 0
