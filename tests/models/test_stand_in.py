"""The stand-ins are what they stand in for in every shape, and sane in every activation."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.errors import UsageError
from ddimcache.models import stand_in as command
from ddimcache.models.stand_in import draw_weight, write_stand_in
from ddimcache.models.stand_in_presets import PRESETS
from tests.kit.family import TINY, single_thread, stand_in
from tests.kit.reference import TorchPipeline

pytestmark = pytest.mark.host
one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("preset", "text_encoder", "unet", "vae"),
    [
        # As counted on the published weights.
        ("sd15", 123_060_480, 859_520_964, 83_653_863),
        ("sd21", 340_387_840, 865_910_724, 83_653_863),
    ],
)
def test_published_shapes(preset: str, text_encoder: int, unet: int, vae: int) -> None:
    configs = PRESETS[preset]
    with torch.device("meta"):
        assert _parameters(CLIPTextModel(CLIPTextConfig(**configs.text_encoder))) == text_encoder
        assert _parameters(UNet2DConditionModel.from_config(configs.unet)) == unet
        assert _parameters(AutoencoderKL.from_config(configs.vae)) == vae


@pytest.mark.parametrize("preset", TINY)
def test_activations_are_of_order_one(preset: str) -> None:
    pipe = TorchPipeline.load(stand_in(preset))
    largest: dict[str, float] = {}
    spread: dict[str, float] = {}

    def watch(name: str):
        def hook(module, arguments, output) -> None:
            if isinstance(output, torch.Tensor):
                largest[name] = output.abs().max().item()
                spread[name] = output.std().item()

        return hook

    for root in (pipe.unet, pipe.vae.decoder):
        for name, module in root.named_modules():
            module.register_forward_hook(watch(name))
    size = np.broadcast_to(pipe.unet.config.sample_size, 2)
    latents = torch.randn(1, 4, *size.tolist(), generator=torch.Generator().manual_seed(0))
    context = pipe.encode(["a red circle", "a photo of a cat"])
    with torch.no_grad():
        first, second = (pipe.unet(latents, 500, context[row : row + 1]).sample for row in (0, 1))
    pipe.decode(latents)
    assert 0.5 < context.std() < 2
    assert 0.5 < first.std() < 2
    assert (first - second).std() > 0.01, "the prompt makes no difference"
    assert max(largest.values()) < 100
    assert min(spread.values()) > 0.01, "a layer is dead"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> dict[str, str]:
        folder = write_stand_in("tiny-bk", tmp_path / name, seed)
        return {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }

    first, again, other = digests("a", 1), digests("b", 1), digests("c", 2)
    assert first == again
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_half_precision_is_the_rounded_single_precision() -> None:
    half = load_pipeline_folder(stand_in("tiny-odd", "float16"))
    single = load_pipeline_folder(stand_in("tiny-odd", "float32"))
    assert {tensor.dtype for tensor in half.unet_weights.tensors.values()} == {"F16"}
    expected = single.load_unet().state_dict()
    for name, tensor in half.load_unet().state_dict().items():
        assert torch.equal(tensor, expected[name].half().float()), name


def test_weights_are_drawn_by_kind() -> None:
    matrix = draw_weight("unet/a.to_q.weight", (256, 400), 0)
    assert matrix.std() == pytest.approx(1 / 20, rel=0.02)
    closing = draw_weight("unet/a.to_out.0.weight", (256, 400), 0)
    assert closing.std() == pytest.approx(0.5 / 20, rel=0.02)
    assert draw_weight("unet/a.norm1.weight", (10_000,), 0).mean() == pytest.approx(1, abs=0.01)
    assert draw_weight("unet/a.norm1.bias", (10_000,), 0).std() == pytest.approx(0.1, rel=0.05)
    assert draw_weight("unet/a.conv1.bias", (10_000,), 0).std() == pytest.approx(0.05, rel=0.05)
    assert not np.array_equal(draw_weight("unet/b.to_q.weight", (256, 400), 0), matrix)


def test_headers_are_aligned_as_the_library_writes_them() -> None:
    with (stand_in("tiny-bk") / "unet/diffusion_pytorch_model.safetensors").open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        assert length % 8 == 0
        assert json.loads(stream.read(length))["__metadata__"] == {"format": "pt"}


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "_write_weights", full_disk)
    assert command.main(["tiny-bk", str(tmp_path / "out")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["tiny-bk", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    assert load_pipeline_folder(tmp_path / "out").latent_size == (8, 8)
    assert command.main(["tiny-bk", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert f"{tmp_path / 'out'}: exists already; remove it" in captured.err
    assert captured.out == ""


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PRESET: 'sd99' is not a preset; use sd15, sd21"):
        write_stand_in("sd99", tmp_path / "out")
    with pytest.raises(UsageError, match="--dtype: 'int8' is not a dtype; use float16, float32"):
        write_stand_in("tiny-bk", tmp_path / "out", dtype="int8")


@pytest.mark.full
@pytest.mark.parametrize("preset", ["sd15", "sd21"])
def test_full_size_is_written_in_little_memory_and_time(preset: str, tmp_path: Path) -> None:
    start = time.monotonic()
    # The kernel's own count of the program alone: getrusage keeps the peak of the process that started it.
    code = (
        "import sys; from pathlib import Path; from ddimcache.models.stand_in import main; "
        "assert main(sys.argv[1:]) == 0; print(Path('/proc/self/status').read_text())"
    )
    run = [sys.executable, "-c", code, preset, str(tmp_path / "out")]
    status = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < 4_000_000
    assert time.monotonic() - start < 180
    folder = load_pipeline_folder(tmp_path / "out")
    stored = sum(file.stat().st_size for file in folder.unet_weights.files)
    assert 1.7e9 < stored < 1.75e9
    unet = folder.load_unet()
    assert _parameters(unet) > 859_000_000
    shutil.rmtree(tmp_path / "out")
