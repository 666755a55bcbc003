"""Images that begin with a picture: the loop held against numpy, in every mode of memory, and over RPC."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddimcache.errors import UsageError
from ddimcache.records import to_json
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import MEMORY_MODES, ImageRequest, MemoryChoice, read_picture, run_image
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.sampler import SAMPLERS, plan
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import RunningServer

SIDE = fake.SIDE * fake.SCALE
PICTURE = np.random.default_rng(6).integers(0, 256, (SIDE, SIDE, 3), "uint8")
IDS, NEGATIVE = [1] * fake.LENGTH, [2] * fake.LENGTH
REQUEST = ImageRequest(IDS, NEGATIVE, 11, 10, 2, 1.0, image=PICTURE.tobytes(), strength=0.65)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("images")
    return fake.build_fake_bundle(scratch / "bundle", scratch, images=True)


def expected_latents(request: ImageRequest) -> np.ndarray:
    reference, shape = fake.Reference.of(IDS, NEGATIVE), fake.manifest().latents.shape
    constants = to_json(fake.manifest().sampler)
    assert isinstance(constants, dict)
    made = plan(constants, request.steps, request.cache_interval, request.sampler, request.strength)
    assert len(made.steps) == request.steps_taken
    *drawn, last = noise(11, (1 + (len(made.steps) if made.adds_noise else 1), *shape))
    x = np.float32(made.picture) * reference.encoded(PICTURE, last) + np.float32(made.noise) * drawn[0]
    history, feature = np.float32(0), None
    for step in made.steps:
        k = step.coefficients
        if step.is_full:
            feature = reference.feature(x, step.timestep, False)
        m = reference.noise(x, feature)
        picture = k.p * x + k.q * m
        added = drawn[step.index + 1] if k.d else 0
        x = (k.a * picture + k.b * (k.r * x + k.s * m) + k.c * history + k.d * added).astype("float32")
        history = picture
    return x


@pytest.mark.host
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_as_numpy(folder, sampler):
    session = Session(open_bundle(folder), DeviceSpec("llvm"))
    request = replace(REQUEST, sampler=sampler, cache_interval=1 if sampler == "lcm" else 2)
    done = run_image(session, request, SilentProgress())
    session.close()
    assert (done.steps_done, done.steps) == (6, 6)
    expected = expected_latents(request)
    np.testing.assert_allclose(done.drawn.latents, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.opencl
@pytest.mark.parametrize("batch", [1, 2])
def test_every_mode_of_memory_draws_the_same(tmp_path, batch):
    bundle = open_bundle(fake.build_fake_bundle(tmp_path / "bundle", tmp_path, "opencl", batch, images=True))
    found = {}
    for mode in MEMORY_MODES:
        session = Session(bundle, DeviceSpec("opencl"), MemoryChoice(mode))
        # The second image finds the encoder gone, or still there.
        first, again = (session.draw(REQUEST).drawn for _ in range(2))
        assert again.pixels.tobytes() == first.pixels.tobytes()
        found[mode] = first.latents
        session.close()
    assert len({latents.tobytes() for latents in found.values()}) == 1
    if batch == 1:
        expected = expected_latents(REQUEST)
        np.testing.assert_allclose(found["auto"], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.host
def test_the_same_over_rpc(folder, tmp_path):
    local = Session(open_bundle(folder), DeviceSpec("llvm"))
    server = RunningServer(tmp_path / "store")
    device = connect(server.address)
    remote = device.open(open_bundle(folder), SilentProgress())
    here, there = (run_image(each, REQUEST, SilentProgress()).drawn for each in (local, remote))
    assert there.latents.tobytes() == here.latents.tobytes()
    for change, message in (
        ({"strength": 0.0}, "--strength: 0 is no share"),
        ({"image": b"1"}, "--image: 1 bytes, a picture of this size has 12288"),
        ({"noise": bytes(1024)}, "initial latents: a picture is drawn on with noise of the seed"),
    ):
        with pytest.raises(UsageError, match=message):
            remote.draw(replace(REQUEST, **change))
    device.close()
    local.close()
    assert server.stop()[0] == 0


@pytest.mark.host
def test_a_message_cannot_go_around_the_checks(folder):
    """The C++ session refuses by itself what Python refuses before it."""
    session = Session(open_bundle(folder), DeviceSpec("llvm"))
    head, body = REQUEST.message(None)
    for change, content, message in (
        ({"strength": -1.0}, body, "--strength: -1.000000 is no share of the steps"),
        ({"strength": 0.05}, body, "--strength: it leaves none of 10 steps"),
        ({"strength": 0.5}, b"", "--image: holds no bytes"),
        ({"strength": 0.5}, body[:-1], "--image: 12287 bytes"),
        ({"strength": 0.5, "seed": None}, body, "initial latents: a picture is drawn on with noise"),
    ):
        with pytest.raises(UsageError, match=message):
            session.answer("draw", head | change, content)
    session.close()


@pytest.mark.host
def test_a_picture_file_is_stretched_as_diffusers_does(tmp_path):
    from diffusers.image_processor import VaeImageProcessor

    file = tmp_path / "wide.png"
    wide = Image.fromarray(PICTURE).resize((90, 40)).convert("RGBA")
    wide.save(file)
    found = np.frombuffer(read_picture(file, "--image", (32, 48)), "uint8").reshape(48, 32, 3)
    theirs = VaeImageProcessor().preprocess(wide.convert("RGB"), height=48, width=32)[0]
    np.testing.assert_allclose(found / 255.0 * 2 - 1, theirs.permute(1, 2, 0), atol=1e-6)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UsageError, match=r"--image: .*wide.png (is no picture|cannot be read)"):
        read_picture(file, "--image", (32, 32))
    with pytest.raises(UsageError, match=r"--image: .*none.png cannot be read: No such file"):
        read_picture(tmp_path / "none.png", "--image", (32, 32))


def _deep(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture.convert("L")).astype("uint16") * 257)


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "save", "expected"),
    [
        ("grey.png", lambda picture, file: picture.convert("L").save(file), "L"),
        # Sixteen bits a pixel, which are not clipped to eight.
        ("deep.png", lambda picture, file: _deep(picture).save(file), "L"),
        # As diffusers, which looks at the colours that are there and not at how much they cover.
        ("clear.png", lambda picture, file: _with_alpha(picture).save(file), "RGB"),
        ("ink.tif", lambda picture, file: picture.convert("CMYK").save(file), "RGB"),
        ("turned.png", lambda picture, file: _turned(picture).save(file, exif=_exif()), "RGB"),
    ],
)
def test_pictures_of_any_mode_are_read(tmp_path, name, save, expected):
    picture = Image.fromarray(PICTURE)
    save(picture, tmp_path / name)
    found = np.frombuffer(read_picture(tmp_path / name, "--image", (SIDE, SIDE)), "uint8")
    wanted = np.asarray(picture.convert(expected).convert("RGB")).reshape(-1)
    np.testing.assert_array_equal(found, wanted)


def _with_alpha(picture: Image.Image) -> Image.Image:
    clear = picture.convert("RGBA")
    clear.putalpha(Image.fromarray(PICTURE[..., 0]))
    return clear


def _turned(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.ROTATE_90)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    # To be turned clockwise by a quarter.
    exif[0x0112] = 6
    return exif


@pytest.mark.host
def test_a_cmyk_jpeg_is_read_as_the_colours_that_it_shows(tmp_path):
    file = tmp_path / "ink.jpg"
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(file, quality=95)
    found = np.frombuffer(read_picture(file, "--image", (SIDE, SIDE)), "uint8").reshape(SIDE, SIDE, 3)
    np.testing.assert_allclose(found.astype(int), np.broadcast_to([255, 0, 0], found.shape), atol=4)


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_pixels_of_32_bits_are_refused(tmp_path, dtype):
    file = tmp_path / "pixels.tif"
    Image.fromarray(np.zeros((8, 8), dtype)).save(file)
    with pytest.raises(
        UsageError, match=r"--image: .*pixels.tif has numbers of 32 bits for its pixels; save"
    ):
        read_picture(file, "--image", (32, 32))
