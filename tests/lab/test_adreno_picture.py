"""A picture of a bundle for ``adreno-740``, drawn in float16 on llvmpipe, beside PyTorch's.

What float16 costs is measured by what it costs PyTorch: the same networks in float16, whose products are
summed in float32, against the same in float32.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import llvmpipe
import numpy as np
import pytest

from ddimcache.adreno.lab import lab_root
from ddimcache.compiler import pipeline
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.conv2d.tiled import POSITIONS, tiles_of
from ddimcache.kernels.tiling import PIXEL
from ddimcache.kernels.workload import Workload
from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import Preset, scheduler, text_encoder, unet, vae
from ddimcache.runtime.tokenizer import Tokenizer
from ddimcache.schedules.tiled_convolutions import choose_blocking, tiled_shape
from tests.kit.device_run import compile_to
from tests.kit.reference import TorchPipeline, fake_quantise, sample

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(1800)]

SHAPES = Path(__file__).parents[2] / "models" / "shapes" / "weights"
PROMPT = "a large red circle on white"

DRAW = """
import json
import sys
from pathlib import Path

import numpy as np

from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import parse_device
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.session import Session

folder = Path(sys.argv[1])
asked = json.loads((folder / "asked.json").read_text())
session = Session(open_bundle(folder / "bundle"), parse_device("opencl"))
noise = (folder / "noise.bin").read_bytes()
numbers = (asked["steps"], asked["cache_interval"], asked["guidance"])
done = session.draw(ImageRequest(asked["ids"], asked["negative"], noise, *numbers))
print(done.timings)
np.savez(folder / "drawn.npz", latents=done.picture.latents, pixels=done.picture.pixels)
session.close()
"""


def draw(
    tmp_path: Path,
    model: Path,
    weights: str,
    latents: np.ndarray,
    asked: dict[str, Any],
    accumulate: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Latents and picture of a bundle with ``weights`` that is run in the lab."""
    options = {"target": "adreno-740", "weights": weights, "accumulate": accumulate}
    bundle = compile_to(model, tmp_path / "bundle", **options)
    assert bundle.manifest.latents.shape == latents.shape
    tokenizer = Tokenizer(bundle.tokenizer)
    asked = {**asked, "ids": tokenizer.encode(PROMPT), "negative": tokenizer.encode("")}
    folder = lab_root() / "lab" / f"picture-{tmp_path.parent.name}-{weights}"
    try:
        shutil.copytree(tmp_path / "bundle", folder / "bundle")
        (folder / "asked.json").write_text(json.dumps(asked))
        (folder / "noise.bin").write_bytes(latents.tobytes())
        done = llvmpipe.run_python(DRAW, [f"/lab/{folder.name}"], seconds=1500)
        assert done.returncode == 0, done.stdout
        print(done.stdout)
        drawn = np.load(folder / "drawn.npz")
        return drawn["latents"], drawn["pixels"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def distance(found: np.ndarray, exact: np.ndarray) -> float:
    """The root of the mean square of a difference, relative to the spread of ``exact``."""
    difference = found.astype("float64") - exact
    return float(np.sqrt(np.mean(difference**2)) / exact.std())


def any_tiled(device: DeviceProfile, workload: Workload, sums: str | None, _largest: int) -> bool:
    """Tiles wherever there are blocks for them, though this model's pictures are too small to gain by it."""
    batch, height, width, depth, channels, *kernel = workload.sizes
    table, pixels = device.tiles.tiled, device.tiles.pixels
    if kernel != [3, 3, 1, 1] or depth % PIXEL or table is None or pixels is None or sums is None:
        return False
    panel = PIXEL if sums == "float" else 2 * PIXEL
    tiles = ((batch, *tiles_of(height, width), POSITIONS, depth), (-(-channels // panel), 3, 3, depth, panel))
    sums = "float" if sums == "float" else "chunks"
    return choose_blocking(tiled_shape(*tiles, sums, workload.dtype), table, pixels, 1024) is not None


def compare(
    tmp_path: Path,
    model: Path,
    weights: str,
    latents: np.ndarray,
    accumulate: tuple[str, ...] = (),
    most: float = 2,
    **asked: Any,
) -> None:
    """Text encoder, full and cached steps, decoder, with the weights that the bundle has.

    Ours may be ``most`` times as far away as PyTorch in float16.
    """
    pipe = TorchPipeline.load(model)
    networks = {name: getattr(pipe, name) for name in ("text_encoder", "unet", "vae")}
    if weights == "int8":
        for network in networks.values():
            fake_quantise(network)
    half = {name: copy.deepcopy(network).half() for name, network in networks.items()}
    exact = sample(pipe, PROMPT, latents, **asked)
    rounded = sample(dataclasses.replace(pipe, **half), PROMPT, latents, **asked)
    assert (exact.full_steps, exact.cached_steps) == (asked["steps"] // 2,) * 2
    ours, pixels = draw(tmp_path, model, weights, latents, asked, accumulate)
    for what, found, its, reference in (
        ("latents", ours, rounded.latents.numpy(), exact.latents.numpy()),
        ("picture", pixels[0], rounded.image, exact.image),
    ):
        away, own = distance(found, reference), distance(its, reference)
        print(f"{weights}, {what}: {away:.2e} away, PyTorch in float16 {own:.2e}")
        assert away <= most * own


@pytest.mark.parametrize(("weights", "tiled"), [("fp16", False), ("int8", False), ("int8", True)])
def test_a_picture_in_float16(
    tmp_path: Path, weights: str, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiled:
        monkeypatch.setattr(pipeline, "tiling_pays", any_tiled)
    latents = np.random.default_rng(7).standard_normal((1, 4, 16, 16)).astype("float32")
    compare(tmp_path, SHAPES, weights, latents, steps=4, cache_interval=2, guidance=7.5)


@pytest.mark.parametrize(
    ("weights", "accumulate", "most"),
    # By the rule, weights of int8 are summed in float16: further away than PyTorch's sums, and little beside
    # what rounding the weights does, which the reference here has done too (docs/adreno.md).
    [("fp16", "auto", 2), ("int8", "float32", 2), ("int8", "auto", 4), ("fp16", "float16", 4)],
)
def test_a_full_and_a_cached_step_at_a_quarter_of_the_width(
    tmp_path: Path, weights: str, accumulate: str, most: float
) -> None:
    """Stable Diffusion 1.5's UNet with 80 to 320 channels, and as many in a group of its norms."""
    preset = Preset(
        text_encoder(width=192, layers=2, heads=3, vocab_size=600),
        unet((80, 160, 320, 320), heads=8, cross_attention_dim=192, sample_size=32, norm_num_groups=8),
        vae((16, 16), sample_size=64, norm_num_groups=4, layers_per_block=1),
        scheduler("DDIMScheduler"),
    )
    model = write_stand_in(preset, tmp_path / "model")
    latents = np.random.default_rng(8).standard_normal((1, 4, 32, 32)).astype("float32")
    asked = {"steps": 2, "cache_interval": 2, "guidance": 1.0}
    compare(tmp_path, model, weights, latents, (accumulate,), most, **asked)
