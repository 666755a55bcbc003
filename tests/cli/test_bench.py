"""``ddimcache bench unet``, on a model of sd15's structure at widths that compile in seconds."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddimcache.bench import launch, turns, unet
from ddimcache.bench.cache_gain import PUBLISHED_EFFICIENCY, PUBLISHED_SPEEDUP, speedups, step_counts
from ddimcache.bench.openvino_unet import OpenVinoUnet
from ddimcache.bench.torch_unet import TorchUnet
from ddimcache.models.stand_in_presets import PRESETS
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.sampler import schedule
from tests.fakes.fake_bundle import SAMPLER
from tests.kit.family import stand_in
from tests.kit.reference import TorchPipeline, fake_quantise
from tests.kit.shared_bundles import compiled

KEYS = {
    "model",
    "device",
    "seconds_full",
    "seconds_cached",
    "seconds_once",
    "guided",
    "speedup",
    "efficiency",
    "error",
    "peers",
    "weights_bytes",
    "activation_bytes",
    "kernels",
}
INTERVALS = {"2", "3", "5", "6", "10"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache folder that lasts for the module, and sd15 at the widths of tiny-sd15."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DDIMCACHE_CACHE", str(folder))
        patch.setitem(PRESETS, "sd15", PRESETS["tiny-sd15"])
        # Small networks only lose by a second thread, a hundredfold where another process has the core.
        patch.setattr(unet, "core_count", lambda spec: 1)
        yield folder


@pytest.fixture
def bench(run, kept):
    """Run ``bench unet`` on the CPU, each call timed once."""
    return lambda *options, device="llvm": run("bench", "unet", "--device", device, "--repeats", 1, *options)


@pytest.fixture
def bundle(bench, kept) -> Path:
    """The bundle that ``--model sd15`` keeps."""
    assert bench("--model", "sd15", "--json").code == 0
    kept_bundles = [path for path in (kept / "bundles").iterdir() if path.is_dir()]
    return next(path for path in kept_bundles if open_bundle(path, sums=False).manifest.model == "sd15")


def test_help_has_examples(run):
    assert "unet" in run("bench", "--help").out
    done = run("bench", "unet", "--help")
    assert "Examples" in done.out
    assert "ddimcache bench unet" in done.out


def test_json_of_a_size_by_name(bench, bundle):
    done = bench("--model", "sd15", "--json")
    assert done.code == 0
    assert "writing" not in done.err
    assert "compiling" not in done.err
    assert "peers with 1 thread" in done.err
    result = done.json
    assert set(result) == KEYS
    assert (result["model"], result["device"]) == ("sd15", "llvm")
    assert 0 < result["error"] < 1e-4
    full, cached = result["seconds_full"], result["seconds_cached"]
    assert 0 < cached < full
    assert set(result["seconds_once"]) == {"embed_time", "project_context"}
    assert all(seconds > 0 for seconds in result["seconds_once"].values())
    assert result["guided"] == {}
    assert set(result["speedup"]) == set(result["efficiency"]) == INTERVALS
    assert result["speedup"]["5"] == pytest.approx(50 * full / (10 * full + 40 * cached))
    assert result["efficiency"]["5"] == pytest.approx(result["speedup"]["5"] / 5)
    peer = result["peers"]["torch"]
    assert peer["ratio"] == pytest.approx(peer["seconds"] / full)
    component = open_bundle(bundle).manifest.components["unet"]
    assert result["weights_bytes"] == component.weights_bytes
    assert result["activation_bytes"] == component.activation_bytes
    assert result["kernels"] == len(component.kernels)


def test_table_stands_beside_the_published_one(bench, bundle):
    done = bench("--model", "sd15")
    assert done.code == 0
    assert "1 thread" in done.out
    for interval, published in PUBLISHED_SPEEDUP.items():
        [row] = [line.split() for line in done.out.splitlines() if line.split()[:1] == [str(interval)]]
        full, cached = step_counts(interval)
        assert row[1:3] == [str(full), str(cached)]
        assert (row[4], row[6]) == (f"{published:.2f}", f"{PUBLISHED_EFFICIENCY[interval]:.2f}")


def test_openvino_answers_and_is_timed_too(bench, bundle):
    done = bench("--model", "sd15", "--peer", "torch,openvino,openvino-bf16", "--json")
    assert done.code == 0
    peers = done.json["peers"]
    assert list(peers) == ["torch", "openvino", "openvino-bf16"]
    for peer in peers.values():
        assert peer["ratio"] == pytest.approx(peer["seconds"] / done.json["seconds_full"])


def test_a_peer_that_is_wrong_is_not_compared_with(bench, bundle, monkeypatch):
    monkeypatch.setattr(OpenVinoUnet, "__call__", lambda self, latents, timestep, context: -latents)
    done = bench("--model", "sd15", "--peer", "openvino")
    assert done.code == 1
    assert "--peer openvino: its answer is" in done.err


def test_openvino_is_not_installed(bench, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = bench("--model", "sd15", "--peer", "torch,openvino")
    assert done.code == 1
    assert "OpenVINO is not installed" in done.err
    assert "pip install 'ddimcache[peers]'" in done.err


def test_bundle_finds_its_model(bench, bundle):
    result = bench("--model", bundle, "--json").json
    assert result["model"] == str(bundle)
    assert result["error"] < 1e-4


def test_bundle_with_its_model_named(bench, bundle, kept, cache, tmp_path):
    moved = shutil.copytree(kept / "stand-ins" / "sd15", tmp_path / "moved")
    assert bench("--model", bundle, "--reference", moved, "--json").json["error"] < 1e-4


def test_bundle_without_its_model(bench, bundle, cache):
    done = bench("--model", bundle)
    assert done.code == 2
    assert "cannot be checked without the model that it was compiled from" in done.err
    assert "name the diffusers folder of 'sd15'" in done.err


def test_bundle_with_another_model(bench, bundle):
    done = bench("--model", bundle, "--reference", stand_in("tiny-bk"))
    assert done.code == 2
    assert f"--reference: {bundle} was not compiled from {stand_in('tiny-bk')}" in done.err


def test_rounded_activations_may_be_further_away(bench, kept):
    model = stand_in("small")
    own = compiled(model, target="llvm", activations=("int8",), attention="bfloat16").folder
    done = bench("--model", own, "--reference", model, "--json")
    assert done.code == 0
    assert unet.LARGEST_ERROR / 30 < done.json["error"] < unet.LARGEST_ROUNDED_ERROR


def test_bundle_with_other_options(bench, bundle):
    done = bench("--model", bundle, "--cut", 1)
    assert done.code == 2
    assert f"--cut: {bundle} was compiled with cut 0, not 1" in done.err


@pytest.mark.parametrize(("call", "damage"), [("full", 1.02), ("cached", 1.02), ("cached", np.nan)])
def test_wrong_answer_is_not_timed(bench, bundle, monkeypatch, call, damage):
    import tvm

    right = getattr(unet.DeviceUnet, call)

    def wrong(*arguments):
        answer = right(*arguments)
        noise, *features = answer if call == "full" else (answer,)
        damaged = tvm.runtime.tensor((noise.numpy() * damage).astype("float32"))
        return (damaged, *features) if call == "full" else damaged

    monkeypatch.setattr(unet.DeviceUnet, call, wrong)
    monkeypatch.setattr(turns, "seconds_a_call", lambda *_: pytest.fail("timed a wrong answer"))
    done = bench("--model", "sd15", "--json")
    assert done.code == 1
    assert done.out == ""
    assert f"device llvm: the {call} UNet call is {'nan' if np.isnan(damage) else '0.02'}" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peer", "tensorrt"], "--peer: 'tensorrt' is none of: torch, openvino, openvino-bf16"),
        (["--peer", "torch,"], "--peer: '' is none of: torch"),
        (["--repeats", "0"], "--repeats: 0 is below 1"),
        (["--device", "rpc://127.0.0.1:9090/k"], "--device: is not a device of this machine"),
        (["--device", "vulkan"], "--device: device 'vulkan' is not known"),
        (["--model", "/no/such"], "--model: /no/such is not a folder"),
        (["--cut", "-1"], "--cut: -1 is negative"),
        (["--weights", "int4"], "--weights: 'int4' is none of: int8, int8-g32, "),
        (["--reference", "/usr"], "--reference: is for a bundle"),
    ],
)
def test_wrong_usage(bench, cache, options, message):
    done = bench(*options)
    assert done.code == 2
    assert message in done.err
    assert not cache.exists()


@pytest.mark.opencl
def test_on_opencl(bench):
    done = bench("--model", stand_in("tiny-sd15"), "--weights", "fp16", "--cut", 1, "--json", device="opencl")
    assert done.code == 0
    assert done.json["device"] == "opencl"
    assert 0 < done.json["error"] < 1e-4
    assert min(done.json["seconds_cached"], done.json["seconds_full"]) > 0


@pytest.mark.opencl
def test_launch(run, kept):
    model = stand_in("small")
    done = run("bench", "launch", "--model", model, "--repeats", 2, "--json")
    assert done.code == 0, done.err
    assert set(done.json) == {"model", "device", "automatic", "kernel", "step", "profile"}
    assert done.json["automatic"] in {"plain", "command-buffer", "recordable-queue"}
    assert done.json["kernel"]["launches"] == 256
    assert done.json["step"]["launches"] > 20
    for program in ("kernel", "step"):
        ways = {name: cost for name, cost in done.json[program].items() if name != "launches"}
        assert {"direct", "plain"} <= set(ways)
        assert ways["direct"]["ratio"] == 1
        for cost in ways.values():
            assert 0 < cost["host_seconds_a_launch"] <= cost["seconds_a_launch"]
    assert done.json["profile"]["ratio"] > 0


@pytest.mark.opencl
def test_launch_refuses_a_wrong_replay(run, kept, monkeypatch):
    monkeypatch.setattr(launch.Recording, "replay", lambda self: None)
    done = run("bench", "launch", "--model", stand_in("small"))
    assert done.code == 1
    assert "256 launches, plain, counted to 0" in done.err
    assert "no time was taken" in done.err


def test_launch_is_for_opencl(run):
    done = run("bench", "launch", "--device", "llvm")
    assert done.code == 2
    assert "only OpenCL has launches to replay" in done.err


@pytest.mark.parametrize("interval", [1, 2, 3, 5, 6, 10, 49, 60])
def test_steps_are_counted_as_the_sampler_counts(interval):
    steps = schedule(SAMPLER, 50, interval)
    full = sum(step.is_full for step in steps)
    assert step_counts(interval) == (full, 50 - full)


def test_speedup_of_published_work():
    # Multiply-accumulates of SD 1.5 in G: 401.6 in a full step, 31.6 in one cached at cut 0.
    found = {interval: round(value, 2) for interval, value in speedups(401.6, 31.6).items()}
    assert found == {2: 1.85, 3: 2.55, 5: 3.80, 6: 4.09, 10: 5.85}


def test_torch_has_the_rounded_weights(bundle):
    folder = stand_in("tiny-sd15", "float16")
    ours = TorchUnet(folder, open_bundle(bundle), threads=1)
    inputs = unet.random_inputs(open_bundle(bundle).manifest)
    answer = ours(inputs.latents, inputs.timestep, inputs.context)
    plain = TorchPipeline.load(folder).unet
    tensors = torch.from_numpy(inputs.latents), inputs.timestep, torch.from_numpy(inputs.context)
    with torch.no_grad():
        unrounded = plain(*tensors).sample.numpy()
        assert fake_quantise(plain)
        expected = plain(*tensors).sample.numpy()
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)
    assert np.abs(answer - unrounded).max() > 1e-3


def test_torch_threads_are_given_back(bundle):
    before = torch.get_num_threads()
    with TorchUnet(stand_in("tiny-bk"), open_bundle(bundle), threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
