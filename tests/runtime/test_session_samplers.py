"""The loop of every sampler on the device is held against numpy, and leaves nothing to the next image."""

from dataclasses import replace

import numpy as np
import pytest

from ddimcache.errors import UsageError
from ddimcache.records import to_json
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.sampler import SAMPLERS, plan
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import RunningServer

IDS = [index % fake.VOCABULARY for index in range(fake.LENGTH)]
NEGATIVE = [(3 * index + 1) % fake.VOCABULARY for index in range(fake.LENGTH)]
REQUEST = ImageRequest(IDS, NEGATIVE, 11, 10, 1, 7.5)


@pytest.fixture(scope="module", params=["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
def session(request, fake_bundle, tmp_path_factory):
    folder = fake_bundle
    if request.param == "opencl":
        scratch = tmp_path_factory.mktemp("samplers")
        folder = fake.build_fake_bundle(scratch / "bundle", scratch, "opencl")
    session = Session(open_bundle(folder), DeviceSpec(request.param))
    yield session
    session.close()


def expected_latents(session: Session, request: ImageRequest) -> np.ndarray:
    """Return the end of the loop in numpy."""
    manifest = session.manifest
    reference = fake.Reference.of(IDS, NEGATIVE, manifest.device_kind)
    constants = to_json(manifest.sampler)
    assert isinstance(constants, dict)
    made = plan(constants, request.steps, request.cache_interval, request.sampler)
    assert isinstance(request.noise, int)
    drawn = noise(request.noise, (request.steps, *manifest.latents.shape))
    x, history, features = np.float32(made.noise) * drawn[0], np.float32(0), {}
    for step in made.steps:
        k = step.coefficients
        if step.is_full:
            features = {side: reference.feature(x, step.timestep, side) for side in (False, True)}
        without, m = (reference.noise(x, features[side]) for side in (True, False))
        m = without + np.float32(request.guidance) * (m - without)
        picture = k.p * x + k.q * m
        added = drawn[step.index + 1] if k.d else 0
        x = (k.a * picture + k.b * (k.r * x + k.s * m) + k.c * history + k.d * added).astype("float32")
        history = picture
    return x


@pytest.mark.parametrize(
    ("sampler", "interval"), [*((sampler, 3) for sampler in SAMPLERS if sampler != "lcm"), ("lcm", 1)]
)
def test_same_as_numpy(session, sampler, interval):
    request = replace(REQUEST, sampler=sampler, cache_interval=interval)
    latents = session.draw(request).drawn.latents
    expected = expected_latents(session, request)
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_samplers_in_turn_leave_nothing_behind(session):
    """The history of one image and the noise of another are not in the next."""
    first = {sampler: session.draw(replace(REQUEST, sampler=sampler)).drawn.latents for sampler in SAMPLERS}
    assert len({latents.tobytes() for latents in first.values()}) == len(SAMPLERS)
    for sampler in reversed(SAMPLERS):
        again = session.draw(replace(REQUEST, sampler=sampler)).drawn.latents
        assert again.tobytes() == first[sampler].tobytes(), sampler


def test_more_noise_follows_more_steps(session):
    """Fewer steps than before take their own numbers, not those that were left."""
    for steps in (8, 1, 2, 50):
        request = replace(REQUEST, sampler="lcm", steps=steps)
        expected = expected_latents(session, request)
        latents = session.draw(request).drawn.latents
        np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "plms"}, "--sampler: 'plms' is none of: ddim, euler, "),
        ({"sampler": "lcm", "cache_interval": 2}, "--cache-interval: lcm's few steps are too far apart"),
        ({"sampler": "lcm", "full_steps": (0, 2)}, "full steps: lcm's few steps are too far apart"),
        (
            {"sampler": "lcm", "steps": 51},
            "--steps: 51 steps cannot be taken; with lcm this model takes",
        ),
        ({"sampler": "lcm", "noise": bytes(1024)}, "initial latents: lcm adds noise of the seed at every"),
    ],
)
def test_draw_refuses(session, change, message):
    with pytest.raises(UsageError) as caught:
        session.draw(replace(REQUEST, **change))
    assert message in str(caught.value)
    with pytest.raises(UsageError, match="--sampler: 'plms' is none of"):
        session.answer("draw", replace(REQUEST, sampler="plms").message(None)[0])


@pytest.mark.host
def test_the_same_over_rpc(fake_bundle, tmp_path):
    local = Session(open_bundle(fake_bundle), DeviceSpec("llvm"))
    server = RunningServer(tmp_path / "store")
    device = connect(server.address)
    remote = device.open(open_bundle(fake_bundle), SilentProgress())
    for sampler in ("dpm++2m", "lcm"):
        request = replace(REQUEST, sampler=sampler)
        here, there = (each.draw(request).drawn for each in (local, remote))
        assert there.latents.tobytes() == here.latents.tobytes()
        assert there.pixels.tobytes() == here.pixels.tobytes()
    device.close()
    local.close()
    assert server.stop()[0] == 0
