"""Images of which a mask keeps parts: the loop held against numpy, in every mode of memory, and over RPC."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddimcache.errors import UsageError
from ddimcache.records import to_json
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import MEMORY_MODES, ImageRequest, MemoryChoice, run_image
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.sampler import SAMPLERS, plan
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import RunningServer
from tests.runtime.test_session_images import IDS, NEGATIVE, PICTURE, SIDE

MASK = np.zeros((SIDE, SIDE), "uint8")
MASK[10:50, 20:] = 128
MASK[:10] = 127
CELLS = MASK[:: fake.SCALE, :: fake.SCALE] >= 128
REQUEST = ImageRequest(
    IDS, NEGATIVE, 11, 10, 2, 1.0, image=PICTURE.tobytes(), strength=0.65, mask=MASK.tobytes()
)
FORMS = pytest.mark.parametrize("inpaints", [False, True], ids=["kept by the loop", "given to the UNet"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[bool, Path]:
    """Bundles whose UNet takes no mask, and takes one."""
    scratch = {inpaints: tmp_path_factory.mktemp("masks") for inpaints in (False, True)}
    return {
        inpaints: fake.build_fake_bundle(folder / "bundle", folder, images=True, inpaints=inpaints)
        for inpaints, folder in scratch.items()
    }


def expected_latents(
    request: ImageRequest,
    inpaints: bool,
    target: str = "llvm",
    whole: np.ndarray = PICTURE,
    mask: np.ndarray = MASK,
) -> np.ndarray:
    reference, white = fake.Reference.of(IDS, NEGATIVE, target), mask[:: fake.SCALE, :: fake.SCALE] >= 128
    shape = (1, fake.CHANNELS, *white.shape)
    constants = to_json(fake.manifest().sampler)
    assert isinstance(constants, dict)
    made = plan(
        constants, request.steps, request.cache_interval, request.sampler, request.strength, masked=True
    )
    *drawn, of_picture, of_masked = noise(11, (2 + (len(made.steps) if made.adds_noise else 1), *shape))
    picture = reference.encoded(whole, of_picture)
    x = np.float32(made.noise) * drawn[0]
    if made.picture:
        x = x + np.float32(made.picture) * picture
    around: np.ndarray | float = 0.0
    if inpaints:
        masked = reference.encoded(whole * (mask < 128)[..., None], of_masked)
        cells = np.broadcast_to(white, (1, 1, *white.shape)).astype("float32")
        around = reference.around(np.concatenate([cells, masked], axis=1))
    history, feature = np.float32(0), None
    for step in made.steps:
        k = step.coefficients
        if step.is_full:
            feature = reference.feature(x, step.timestep, False)
        m = reference.noise(x, feature) + around
        predicted = k.p * x + k.q * m
        added = drawn[step.index + 1] if k.d else 0
        x = (k.a * predicted + k.b * (k.r * x + k.s * m) + k.c * history + k.d * added).astype("float32")
        history = predicted
        if not inpaints:
            x = np.where(white, x, step.kept_picture * picture + step.kept_noise * drawn[0]).astype("float32")
    return x


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.host
@FORMS
@pytest.mark.parametrize("strength", [0.65, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_as_numpy(folders, sampler, strength, inpaints):
    session = Session(open_bundle(folders[inpaints]), DeviceSpec("llvm"))
    interval = 1 if sampler == "lcm" else 2
    request = replace(REQUEST, sampler=sampler, strength=strength, cache_interval=interval)
    done = run_image(session, request, SilentProgress())
    session.close()
    assert done.steps_done == done.steps == int(10 * strength)
    expected = expected_latents(request, inpaints)
    assert_close(done.drawn.latents, expected)


@pytest.mark.host
@FORMS
def test_every_size_is_that_of_numpy(tmp_path, inpaints):
    folder = fake.build_fake_bundle(
        tmp_path / "bundle", tmp_path, images=True, inpaints=inpaints, more=((12, 6),)
    )
    session = Session(open_bundle(folder), DeviceSpec("llvm"))
    random = np.random.default_rng(4)
    for width, height in ((96, 48), (64, 64), (96, 48)):
        picture = random.integers(0, 256, (height, width, 3), "uint8")
        mask = random.integers(0, 256, (height, width), "uint8")
        given = {"image": picture.tobytes(), "mask": mask.tobytes(), "size": (width, height)}
        found = session.draw(replace(REQUEST, **given)).drawn.latents
        assert_close(found, expected_latents(REQUEST, inpaints, whole=picture, mask=mask))
    session.close()


@pytest.mark.opencl
@FORMS
@pytest.mark.parametrize("batch", [1, 2])
def test_every_mode_of_memory_draws_the_same(tmp_path, batch, inpaints):
    folder = fake.build_fake_bundle(
        tmp_path / "bundle", tmp_path, "opencl", batch, images=True, inpaints=inpaints
    )
    bundle, found = open_bundle(folder), {}
    for mode in MEMORY_MODES:
        session = Session(bundle, DeviceSpec("opencl"), MemoryChoice(mode))
        first = session.draw(REQUEST).drawn
        if not inpaints:
            # Recordings of an image without a mask must not serve the next one, nor the other way round.
            whole = session.draw(replace(REQUEST, mask=b"")).drawn
            assert whole.latents[..., ~CELLS].tobytes() != first.latents[..., ~CELLS].tobytes()
        again = session.draw(REQUEST).drawn
        assert again.pixels.tobytes() == first.pixels.tobytes()
        found[mode] = first.latents
        session.close()
    assert len({latents.tobytes() for latents in found.values()}) == 1
    if batch == 1:
        assert_close(found["auto"], expected_latents(REQUEST, inpaints, "opencl"))


@pytest.mark.opencl
@FORMS
def test_replayed_steps_are_those_that_are_launched(tmp_path, inpaints):
    folder = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, "opencl", images=True, inpaints=inpaints)
    drawn = []
    other = replace(REQUEST, image=PICTURE[::-1].tobytes(), mask=MASK[::-1].tobytes(), noise=5)
    for replay in (True, False):
        session = Session(open_bundle(folder), DeviceSpec("opencl"), replay=replay)
        # The second image has another picture and mask where recordings read them.
        drawn.append([session.draw(request).drawn.latents.tobytes() for request in (REQUEST, other)])
        session.close()
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


@pytest.mark.host
@FORMS
def test_the_same_over_rpc(folders, tmp_path, inpaints):
    bundle = open_bundle(folders[inpaints])
    local = Session(bundle, DeviceSpec("llvm"))
    server = RunningServer(tmp_path / "store")
    device = connect(server.address)
    remote = device.open(bundle, SilentProgress())
    here, there = (run_image(each, REQUEST, SilentProgress()).drawn for each in (local, remote))
    assert there.latents.tobytes() == here.latents.tobytes()
    assert there.pixels.tobytes() == here.pixels.tobytes()
    for change, message in (
        ({"image": b""}, "--mask: says where a picture is drawn anew, and there is none"),
        ({"mask": b"1"}, "--mask: 1 bytes, a mask of this size has 4096"),
        ({"mask": bytes(SIDE * SIDE)}, "--mask: leaves nothing to draw"),
    ):
        with pytest.raises(UsageError, match=message):
            remote.draw(replace(REQUEST, **change))
    device.close()
    local.close()
    assert server.stop()[0] == 0


@pytest.mark.host
def test_a_message_cannot_go_around_the_checks(folders):
    """The C++ session refuses by itself what Python refuses before it."""
    session = Session(open_bundle(folders[False]), DeviceSpec("llvm"))
    head, body = REQUEST.message(None)
    assert head["mask_bytes"] == SIDE * SIDE
    for change, content, message in (
        ({"mask_bytes": 0}, body, "--mask: holds no bytes"),
        ({"mask_bytes": len(body) + 1}, body, "mask_bytes: is more than the message holds"),
        ({"mask_bytes": len(body)}, body, "--image: holds no bytes"),
        ({"mask_bytes": -1}, body, "mask_bytes: is -1, below the least allowed, 0"),
        ({"mask_bytes": SIDE * SIDE - 1}, body, "--image: 12289 bytes"),
        ({"strength": None}, body, "--mask: says where a picture is drawn anew, and there is none"),
        ({"strength": None, "seed": None}, body, "--mask: says where a picture is drawn anew"),
    ):
        with pytest.raises(UsageError, match=message):
            session.answer("draw", head | change, content)
    session.close()


@pytest.mark.host
def test_a_model_that_fills_in_wants_a_mask(folders):
    session = Session(open_bundle(folders[True]), DeviceSpec("llvm"))
    for change in ({"mask": b""}, {"mask": b"", "image": b""}):
        with pytest.raises(
            UsageError, match="--mask: the model fills in a part of a picture; give a picture with --image"
        ):
            session.draw(replace(REQUEST, **change))
    session.close()
