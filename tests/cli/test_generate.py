"""``ddimcache generate``: pictures, their files, and what it refuses before any work begins."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddimcache.commands import choose
from ddimcache.models.shapes import FINGERPRINT
from ddimcache.runtime.noise import noise
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import KEY, RunningServer

KEYS = {
    "image",
    "images",
    "seed",
    "device",
    "size",
    "sampler",
    "steps",
    "strength",
    "mask",
    "cache_interval",
    "cache_schedule",
    "cut",
    "full_steps",
    "cached_steps",
    "seconds",
    "seconds_full_step",
    "seconds_cached_step",
    "peak_bytes",
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.png"


@pytest.fixture
def generate(run, fake_bundle, out):
    """Run generate on the small bundle; later options replace earlier ones."""

    def run_it(*options, prompt="a cat"):
        return run("generate", prompt, "--model", fake_bundle, "--device", "llvm", "-o", out, *options)

    return run_it


def test_json_has_the_agreed_keys_and_nothing_else_is_on_standard_output(generate, out):
    done = generate("--steps", 10, "--cache-interval", 4, "--seed", 3, "--json")
    assert done.code == 0
    result = done.json
    assert set(result) == KEYS
    assert set(result["seconds"]) == {"text", "denoise", "decode", "total"}
    assert (result["full_steps"], result["cached_steps"], result["seed"]) == (3, 7, 3)
    assert result["image"] == str(out)
    assert result["peak_bytes"] > 0
    assert Image.open(out).size == (64, 64)


def test_table_for_people(generate, out):
    done = generate("--seed", 3)
    assert done.code == 0
    assert done.out.startswith(f"{out}\n")
    assert "10 full steps of" in done.out
    assert "40 cached of" in done.out
    assert "next: --cache-interval 1" in done.err


def test_the_end_of_a_long_prompt_is_told_to_be_left_out(generate):
    done = generate("--steps", 2, "--negative-prompt", "dog", prompt="ab " * 25 + "and the end")
    assert done.code == 0
    (line,) = [line for line in done.err.splitlines() if "left out" in line]
    assert line == "longer than the 75 tokens that the model reads; left out: 'and the end'"
    assert "left out" not in generate("--steps", 2).err


@pytest.mark.parametrize(("guidance", "told"), [(1, True), (1.5, False)])
def test_a_negative_prompt_in_vain_is_told(generate, guidance, told):
    done = generate("--steps", 2, "--negative-prompt", "dog", "--guidance", guidance)
    assert done.code == 0
    assert ("the negative prompt changes nothing: there is no guidance at 1" in done.err) == told


def test_picture_is_the_sessions_and_tells_how_it_was_made(generate, out):
    done = generate("--steps", 6, "--seed", 3, "--negative-prompt", "dog", "--guidance", 2, "--json")
    assert done.code == 0
    information = Image.open(out).text
    assert information["prompt"] == "a cat"
    assert information["negative_prompt"] == "dog"
    assert information["seed"] == "3"
    assert information["steps"] == "6"
    assert information["guidance"] == "2.0"
    first = out.read_bytes()
    generate("--steps", 6, "--seed", 3, "--negative-prompt", "dog", "--guidance", 2, "--json")
    assert out.read_bytes() == first
    generate("--steps", 6, "--seed", 4, "--negative-prompt", "dog", "--guidance", 2, "--json")
    assert (np.asarray(Image.open(out)) != np.asarray(Image.open(io.BytesIO(first)))).any()


def test_a_bundle_of_the_embedded_model_takes_its_guidance(generate, fake_bundle, out, tmp_path):
    bundle = tmp_path / "embedded.bundle"
    shutil.copytree(fake_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model_fingerprint"] = FINGERPRINT
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = generate("--steps", 2, "--seed", 3, "--model", bundle)
    assert done.code == 0, done.err
    assert Image.open(out).text["guidance"] == "2.0"


@pytest.mark.parametrize("sampler", ["euler", "dpm++2m-karras", "lcm"])
def test_another_sampler_draws_another_picture(generate, out, sampler):
    generate("--steps", 6, "--seed", 3, "--guidance", 2)
    first = out.read_bytes()
    done = generate("--steps", 6, "--seed", 3, "--sampler", sampler, "--json")
    assert done.code == 0, done.err
    interval = 1 if sampler == "lcm" else 5
    assert (done.json["sampler"], done.json["cache_interval"]) == (sampler, interval)
    information = Image.open(out).text
    assert (information["sampler"], information["cache_interval"]) == (sampler, str(interval))
    assert information["guidance"] == ("1.0" if sampler == "lcm" else "7.5")
    assert out.read_bytes() != first


def test_a_picture_begins_with_another_one(run, out, tmp_path):
    bundle = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, images=True)
    given = tmp_path / "in.jpg"
    Image.fromarray(np.full((30, 50, 3), 200, "uint8")).save(given)
    command = ("generate", "a cat", "--model", bundle, "--device", "llvm", "-o", out, "--seed", 3)
    done = run(*command, "--image", given, "--steps", 10, "--strength", 0.6, "--json")
    assert done.code == 0, done.err
    assert (done.json["strength"], done.json["full_steps"], done.json["cached_steps"]) == (0.6, 2, 4)
    assert Image.open(out).text["strength"] == "0.6"
    first = out.read_bytes()
    plain = run(*command, "--steps", 10, "--json")
    assert plain.json["strength"] is None
    assert out.read_bytes() != first


@pytest.fixture
def hole(tmp_path):
    """A mask whose middle is white, in another mode and size than any bundle's."""
    file = tmp_path / "hole.png"
    mask = Image.new("1", (40, 30))
    mask.paste(1, (10, 5, 30, 25))
    mask.save(file)
    return file


@pytest.mark.parametrize("inpaints", [False, True])
def test_a_mask_says_where_a_picture_is_drawn_anew(run, out, tmp_path, hole, inpaints):
    bundle = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, images=True, inpaints=inpaints)
    given = tmp_path / "in.jpg"
    Image.fromarray(np.full((30, 50, 3), 200, "uint8")).save(given)
    command = ("generate", "a cat", "--model", bundle, "--device", "llvm", "-o", out, "--seed", 3)
    done = run(*command, "--image", given, "--mask", hole, "--steps", 10, "--json")
    assert done.code == 0, done.err
    assert set(done.json) == KEYS
    # Nothing of what lies below a mask remains, unless it is asked for.
    assert (done.json["strength"], done.json["full_steps"], done.json["cached_steps"]) == (1.0, 2, 8)
    assert done.json["mask"] == str(hole)
    information = Image.open(out).text
    assert (information["strength"], information["mask"]) == ("1.0", "hole.png")
    first = out.read_bytes()
    done = run(*command, "--image", given, "--mask", hole, "--steps", 10, "--strength", 0.5, "--json")
    assert (done.json["strength"], done.json["full_steps"]) == (0.5, 1)
    assert out.read_bytes() != first
    Image.new("L", (8, 8)).save(hole)
    refused = run(*command, "--image", given, "--mask", hole)
    assert refused.code == 2
    assert f"--mask: {hole} is nowhere white, so nothing would be drawn; make white what" in refused.err


def test_a_bundle_that_fills_in_is_refused_where_there_is_no_picture(run, out, tmp_path):
    bundle = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, images=True, inpaints=True)
    done = run("generate", "a cat", "--model", bundle, "--device", "llvm", "-o", out)
    assert done.code == 2
    assert f"--mask: {bundle} fills in a part of a picture; give a picture with --image" in done.err
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    for verb, where in (
        (("batch", prompts, "--model", bundle, "-o", tmp_path / "pictures", "--device", "llvm"), "--model"),
        (("quality", bundle), "BUNDLE"),
        (("schedule", bundle), "BUNDLE"),
        (("profile", bundle), "BUNDLE"),
        (("bench", "unet", "--model", bundle), "--model"),
    ):
        done = run(*verb)
        assert done.code == 2, verb
        assert f"{where}: {bundle} fills in a part of a picture, and there is none here; take" in done.err


def test_without_a_seed_it_reports_the_one_it_took(generate, out):
    seed = generate("--json").json["seed"]
    first = out.read_bytes()
    generate("--seed", seed, "--json")
    assert out.read_bytes() == first


def test_latents_in_and_out(generate, out, tmp_path):
    initial, final = tmp_path / "noise.npy", tmp_path / "final.npy"
    np.save(initial, noise(3, fake.manifest().latents.shape))
    by_seed = generate("--seed", 3, "--steps", 5, "--save-latents", final, "--json")
    assert by_seed.code == 0
    first, pixels = np.load(final), np.asarray(Image.open(out))
    assert (first.dtype, first.shape) == (np.dtype("float32"), (1, 4, 8, 8))
    by_noise = generate("--latents", initial, "--steps", 5, "--save-latents", final, "--json")
    assert by_noise.json["seed"] is None
    np.testing.assert_array_equal(np.load(final), first)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps: 0 is outside 1 … 1000"),
        (["--steps", "1001"], "--steps: 1001 is outside 1 … 1000"),
        (["--cache-interval", "0"], "--cache-interval: 0 is below 1"),
        (["--guidance", "nan"], "--guidance: nan is no finite number"),
        (["--guidance", "inf"], "--guidance: inf is no finite number"),
        (["--guidance", "-0.1"], "--guidance: -0.1 is no finite number"),
        (["--image", "/no/such.png"], "--image: "),
        (["--mask", "x.png"], "--mask: is about a picture to begin with, and there is none; give --image"),
        (["--strength", "0.5"], "--strength: is about a picture to begin with, and there is none"),
        (["--image", "x.png", "--strength", "0"], "--strength: 0 is no share of the steps"),
        (["--image", "x.png", "--steps", "4", "--strength", "0.2"], "--strength: it leaves none of 4 steps"),
        (
            ["--image", "x.png", "--latents", "x.npy"],
            "--latents: a picture is drawn on with noise of the seed",
        ),
        (["--sampler", "plms"], "--sampler: 'plms' is none of: ddim, euler, euler-karras, dpm++2m"),
        (
            ["--sampler", "lcm", "--cache-interval", "5"],
            "--cache-interval: lcm's few steps are too far",
        ),
        (["--sampler", "lcm", "--latents", "x.npy"], "--latents: lcm adds noise of the seed at every step"),
        (["--seed", "-1"], "--seed: -1 is outside"),
        (["--seed", "9223372036854775808"], "--seed: 9223372036854775808 is outside"),
        (["--size", "big"], "--size: 'big' is no size; write WIDTHxHEIGHT"),
        (["--size", "0x64"], "--size: '0x64' is no size"),
        (["--size", "128x64"], "--size: "),
        (["--cut", "1"], "--cut: "),
        (["--weights", "fp32"], "--weights: "),
        (["--device", "cuda"], "--device: device 'cuda' is not known"),
        (["--device", "llvm:3"], "--device: device 'llvm:3'"),
        (["--device", "rpc://nowhere"], "--device: no host and port in 'rpc://nowhere'"),
        (["-o", "picture.jpg"], "--output: picture.jpg does not end in .png"),
        (["-o", "/no/such/folder/x.png"], "--output: folder /no/such/folder does not exist"),
        (["--save-latents", "x.npz"], "--save-latents: x.npz does not end in .npy"),
        (
            ["--save-latents", "/no/such/folder/x.npy"],
            "--save-latents: folder /no/such/folder does not exist",
        ),
        (["--latents", "/no/such.npy"], "--latents: /no/such.npy cannot be read: No such file"),
        (["--latents", "x.npy", "--seed", "1"], "--latents: takes the place of --seed"),
        (["--memory", "all"], "--memory: 'all' is none of: auto, resident, pipelined, load-on-use"),
        (["--memory-budget", "much"], "--memory-budget: 'much' is no number of bytes"),
        (["--memory-budget", "0"], "--memory-budget: 0 bytes is no budget"),
        (["--memory-budget", "10"], "--memory-budget: 10 bytes are not enough"),
        (["--model", "/no/such/model"], "--model: /no/such/model is not a folder"),
        (["--model", "/usr"], "--model: /usr holds neither model_index.json"),
    ],
)
def test_wrong_usage(generate, out, options, message, monkeypatch):
    def no_work(*_):
        pytest.fail("work was begun")

    monkeypatch.setattr(Session, "draw", no_work)
    done = generate(*options)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "x", "--steps", "many"],
        ["generate", "x", "--sheps", "3"],
        ["generate", "x", "y"],
    ],
)
def test_wrong_words(run, arguments):
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 4, 8, 8)), "holds float64, expected float32"),
        (np.zeros((1, 4, 8, 9), "float32"), "has shape 1×4×8×9, this model and size take 1×4×8×8"),
        (np.full((1, 4, 8, 8), np.nan, "float32"), "holds numbers that are not finite"),
        (np.array([{"a": 1}], dtype=object), "is no .npy file of numbers"),
    ],
)
def test_latents_that_are_none(generate, out, tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    done = generate("--latents", tmp_path / "bad.npy")
    assert done.code == 2
    assert "--latents: " in done.err
    assert message in done.err
    assert not out.exists()


def test_broken_bundle(run, own_bundle, out):
    (own_bundle / "unet.so").write_bytes(b"")
    done = run("generate", "x", "--model", own_bundle, "--device", "llvm", "-o", out)
    assert done.code == 1
    assert "unet.so: has 0 bytes, the manifest says" in done.err
    assert not out.exists()


def test_bundle_for_another_device(run, own_bundle, out):
    path = own_bundle / "manifest.json"
    path.write_text(path.read_text().replace('"device_kind": "llvm"', '"device_kind": "opencl"'))
    done = run("generate", "x", "--model", own_bundle, "--device", "llvm", "-o", out)
    assert done.code == 1
    assert "device llvm: the bundle was compiled for opencl; run it with --device opencl" in done.err


def test_prompt_that_is_no_text(run, fake_bundle, out):
    done = run("generate", "\udcff", "--model", fake_bundle, "--device", "llvm", "-o", out)
    assert done.code == 2
    assert "PROMPT: is not UTF-8" in done.err


def test_nobody_at_the_address(generate):
    done = generate("--device", "rpc://127.0.0.1:1/key")
    assert done.code == 1
    assert "rpc://127.0.0.1:1: nobody listens" in done.err


def test_remote_device_makes_the_same_file(generate, out, tmp_path):
    options = ["--steps", 6, "--seed", 3, "--save-latents", tmp_path / "final.npy", "--json"]
    assert generate(*options).code == 0
    local = out.read_bytes(), (tmp_path / "final.npy").read_bytes()
    out.unlink()
    server = RunningServer(tmp_path / "store")
    try:
        done = generate(*options, "--device", server.address)
    finally:
        code, log = server.stop()
    assert (done.code, code) == (0, 0), done.err + log
    assert (out.read_bytes(), (tmp_path / "final.npy").read_bytes()) == local
    assert done.json["device"] == f"rpc://127.0.0.1:{server.port} (llvm)"
    assert KEY not in done.out + done.err + log


def test_without_a_device_it_takes_the_bundles_kind(run, fake_bundle, out):
    assert run("generate", "x", "--model", fake_bundle, "-o", out, "--json").json["device"] == "llvm"


def test_interrupt_writes_nothing(generate, out, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "poll", interrupt)
    # So many that the first answer cannot hold the whole image.
    done = generate("--steps", 1000)
    assert done.code == 130
    assert "interrupted" in done.err
    assert list(tmp_path.iterdir()) == []


def test_interrupt_from_the_keyboard(fake_bundle, out):
    """A real signal to a real process, at work on many steps."""
    command = [sys.executable, "-u", "-m", "ddimcache.cli", "generate", "x", "--model", str(fake_bundle)]
    slow = (
        "import sys, time; from ddimcache.runtime.session import Session; from ddimcache.cli import main\n"
        "poll = Session.poll\n"
        "def slow(self, seconds):\n    print('running', flush=True); time.sleep(60); return poll(self)\n"
        "Session.poll = slow; main(sys.argv[1:])\n"
    )
    command[1:4] = ["-c", slow]
    process = subprocess.Popen(
        [*command, "--device", "llvm", "--steps", "1000", "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert list(out.parent.iterdir()) == []


def test_failing_disk_leaves_the_old_picture(generate, out, monkeypatch):
    out.write_bytes(b"old picture")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = generate()
    assert done.code == 1
    assert f"{out}: cannot be written: No space left on device" in done.err
    assert out.read_bytes() == b"old picture"
    assert [path.name for path in out.parent.iterdir()] == ["out.png"]


class TestCompiling:
    """A folder that is not compiled yet is compiled once and kept."""

    @pytest.fixture
    def from_folder(self, run, model, cache, compiler, tmp_path):
        output = tmp_path / "out.png"
        return lambda *options: run(
            "generate", "x", "--model", model, "--device", "llvm", "-o", output, "--json", *options
        )

    def test_once(self, from_folder, compiler, model):
        first, second = from_folder("--seed", 1), from_folder("--seed", 2)
        assert (first.code, second.code) == (0, 0)
        assert len(compiler.calls) == 1
        assert compiler.calls[0][0] == model
        assert compiler.calls[0][2].target == "llvm"
        assert "compiling" in first.err
        assert "compiling" not in second.err

    def test_a_kept_one_asks_for_no_compiler(self, from_folder, compiler, monkeypatch):
        """Its imports take seconds, and where only the runtime is installed there is none."""
        from_folder()
        monkeypatch.setattr(choose, "load_compiler", lambda: pytest.fail("the compiler was loaded"))
        assert from_folder().code == 0

    def test_again_for_other_options_or_other_weights(self, from_folder, compiler, model):
        from_folder()
        from_folder("--cut", 1)
        assert from_folder("--cut", 1).json["cut"] == 1
        assert len(compiler.calls) == 2
        (model / "unet" / "weights.bin").write_bytes(b"WEIGHTS")
        from_folder()
        assert len(compiler.calls) == 3

    def test_damaged_one_is_compiled_again(self, from_folder, compiler, cache):
        from_folder()
        [kept] = [path for path in (cache / "bundles").iterdir() if path.is_dir()]
        (kept / "unet.so").unlink()  # this process has it mapped
        (kept / "unet.so").write_bytes(b"rot")
        done = from_folder()
        assert done.code == 0
        assert "is damaged, compiling it again" in done.err
        assert len(compiler.calls) == 2

    def test_half_written_one_is_not_used(self, from_folder, compiler, cache):
        from_folder()
        [kept] = [path for path in (cache / "bundles").iterdir() if path.is_dir()]
        left_behind = cache / "bundles" / f".{kept.name}.abc.part"
        kept.rename(left_behind)
        assert from_folder().code == 0
        assert len(compiler.calls) == 2
        assert not left_behind.exists()

    def test_lora_is_compiled_in_and_its_contents_are_part_of_the_key(self, from_folder, compiler, tmp_path):
        lora = tmp_path / "ink.safetensors"
        lora.write_bytes(b"first")
        assert from_folder("--lora", f"{lora}:0.5").code == 0
        assert compiler.calls[0][2].loras == (f"{lora}:0.5",)
        assert from_folder("--lora", f"{lora}:0.5").code == 0
        assert len(compiler.calls) == 1
        lora.write_bytes(b"second")
        assert from_folder("--lora", f"{lora}:0.5", "--lora", lora).code == 0
        assert len(compiler.calls) == 2
        assert compiler.calls[1][2].loras == (f"{lora}:0.5", str(lora))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--lora", "ink.pt"], "--lora: 'ink.pt' is no safetensors file; name a file that ends in"),
            (["--lora", "none.safetensors"], "--lora: none.safetensors cannot be read: No such file"),
            (["--weights", "int4"], "--weights: 'int4' is none of: int8, int8-g32, "),
            (["--cut", "-1"], "--cut: -1 is negative"),
            (["--size", "100x64"], "--size: width 100 is not a multiple of 8"),
            (["--size", "64x8192"], "--size: height 8192 is not a multiple of 8 from 8 to 4096"),
        ],
    )
    def test_wrong_usage(self, from_folder, compiler, options, message):
        done = from_folder(*options)
        assert done.code == 2
        assert message in done.err
        assert compiler.calls == []

    def test_machine_with_the_runtime_alone(self, from_folder, compiler, monkeypatch):
        class NoTorch:
            def find_spec(self, name, path=None, target=None):
                if name == "ddimcache.compiler.build":
                    raise ModuleNotFoundError("No module named 'torch'", name="torch")

        monkeypatch.delitem(sys.modules, "ddimcache.compiler.build")
        monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])
        done = from_folder()
        assert done.code == 2
        assert "compiling a model: package torch is missing; pip install 'ddimcache[compile]'" in done.err

    def test_cache_folder_that_cannot_be_written(self, from_folder, compiler, monkeypatch):
        monkeypatch.setenv("DDIMCACHE_CACHE", "/proc/no")
        done = from_folder()
        assert done.code == 2
        assert "set DDIMCACHE_CACHE to a folder that can be written" in done.err
        assert compiler.calls == []
