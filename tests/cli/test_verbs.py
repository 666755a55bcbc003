"""The other verbs: compile, inspect, devices, doctor, serve, and the help of all."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from typer.main import get_command

from ddimcache import cli
from ddimcache.commands import bench, choose, doctor
from ddimcache.commands.terminal import bytes_text, parse_bytes, seconds_text
from ddimcache.compiler import linker
from ddimcache.errors import UsageError
from ddimcache.runtime import devices
from ddimcache.runtime.bundle import open_bundle

UNET = ("embed_time", "project_context", "full", "cached")
VERBS = [command.name for command in cli.app.registered_commands]
MEASUREMENTS = [command.name for command in bench.app.registered_commands]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(run, verb):
    done = run(verb, "--help")
    assert done.code == 0
    assert "Examples" in done.out
    assert f"ddimcache {verb}" in done.out


@pytest.mark.parametrize("verb", [*VERBS, "bench", *(f"bench {name}" for name in MEASUREMENTS)])
def test_examples_are_shown_so_that_they_can_be_pasted(run, verb, monkeypatch):
    """On a terminal of 80 columns, which breaks no line, and with options that there are."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(*verb.split(), "--help").out.partition(" Examples\n")[2]
    assert f"ddimcache {verb}" in shown
    assert all(line == line.rstrip() and len(line) <= 80 for line in shown.splitlines())
    for line in shown.replace("\\\n", "").splitlines():
        words = shlex.split(line.partition(" | ")[0], comments=True)
        if not words or words[0] in ("adb", "export"):
            continue
        assert words[0] == "ddimcache"
        parse(words[1:])


def parse(words):
    """Read a command line as the verb would, without running it; raises what it refuses it with."""
    command, context, arguments = get_command(cli.app), None, words
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, list(arguments), parent=context)
        _, command, arguments = command.resolve_command(context, arguments)
    command.make_context(command.name, list(arguments), parent=context)


def test_help_lists_every_verb(run):
    done = run("--help")
    assert {"generate", "compile", "inspect", "devices", "doctor", "serve"} <= set(VERBS)
    for verb in VERBS:
        assert f" {verb} " in done.out


def test_version(run):
    assert run("--version").out == "ddimcache 0.1.0\n"


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom ddimcache.cli import main\n"
        "try:\n    main(['generate', 'x', '--steps', '0'])\n"
        "except SystemExit as end:\n    print(end.code)\n"
        "print([name for name in ('tvm', 'torch', 'diffusers', 'tvm_ffi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"


def test_a_terminal_that_lacks_letters():
    def printed(code: str) -> str:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)

    shown = printed("from ddimcache.cli import main; main(['generate', '--help'])")
    assert "Steps of the sampler, 1 ? 1000" in shown
    value = {"image": "g\u00fcn.png", "model": "\udcff"}
    shown = printed(f"from ddimcache.commands.terminal import print_json; print_json({value!r})")
    assert json.loads(shown) == value


ENDED = """
import os, signal, sys, tempfile, time, types

signal.signal(signal.SIGINT, signal.default_int_handler)

def wait_for_the_signal():
    os.kill(os.getpid(), int(sys.argv[3]))
    time.sleep(60)

class Freed:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[3]))
        time.sleep(0.01)

def while_something_is_freed():
    Freed()
    time.sleep(60)

def called_by_tvm():
    import tvm
    tvm.runtime.convert(wait_for_the_signal)()

def passed_over():
    try:
        called_by_tvm()
    except Exception:
        pass

def compile_pipeline(model, out, options, progress):
    with tempfile.TemporaryDirectory(dir=out.parent), progress.stage("work", 2) as stage:
        stage.advance()
        globals()[sys.argv[4]]()
        stage.advance()

build = sys.modules["ddimcache.compiler.build"] = types.ModuleType("ddimcache.compiler.build")
build.compile_pipeline = compile_pipeline
from ddimcache.cli import main

before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
try:
    main(["compile", sys.argv[1], "-o", sys.argv[2], "--target", "llvm"])
finally:
    print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before)
"""


def test_names_in_a_bundle_do_not_reach_the_terminal_as_they_are(run, fake_bundle, tmp_path):
    name = "\x1b[2J\x9b31m gone"
    shutil.copytree(fake_bundle, tmp_path / "bundle")
    file = tmp_path / "bundle" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": name}))
    done = run("inspect", tmp_path / "bundle")
    assert (done.code, r"\x1b[2J\x9b31m gone" in done.out) == (0, True)
    (tmp_path / "bundle" / name).touch()
    refused = run("inspect", tmp_path / "bundle")
    assert (refused.code, r"\x1b[2J\x9b31m gone" in refused.err) == (1, True)
    assert "\x1b" not in done.out + refused.err


class TestCompile:
    @pytest.mark.parametrize(
        "place", ["wait_for_the_signal", "called_by_tvm", "while_something_is_freed", "passed_over"]
    )
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_compilation_that_is_ended_leaves_nothing_behind(self, model, tmp_path, number, place):
        """In a process of its own: a worker of the tests has its main thread elsewhere, and would end."""
        (tmp_path / "out").mkdir()
        command = [sys.executable, "-c", ENDED, model, tmp_path / "out" / "bundle", str(number.value), place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 128 + number, done.stderr
        assert "Traceback" not in done.stderr
        assert "interrupted, no result was written" in done.stderr
        assert list((tmp_path / "out").iterdir()) == []
        assert done.stdout == "True\n"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mine", "mine: holds files that are no bundle, and would be replaced; choose another"),
            ("mine/file", "file: is there and is no folder; remove it or choose another name"),
            ("link", "link: is a link, which would be replaced; name the folder that it leads to"),
            ("none/x", "none: the folder does not exist; make it first"),
        ],
    )
    def test_what_is_there_is_not_replaced(self, run, model, compiler, tmp_path, name, message):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "file").write_text("precious")
        (tmp_path / "link").symlink_to(tmp_path / "mine")
        done = run("compile", model, "-o", tmp_path / name)
        assert (done.code, compiler.calls) == (2, [])
        assert message in done.err
        assert (tmp_path / "mine" / "file").read_text() == "precious"

    def test_json(self, run, model, compiler, tmp_path):
        done = run("compile", model, "-o", tmp_path / "out", "--target", "llvm", "--batch", 1, "--json")
        assert done.code == 0
        result = done.json
        assert set(result) == {"bundle", "seconds", "weights_bytes", "activation_bytes", "kernels"}
        manifest = open_bundle(tmp_path / "out").manifest
        assert result["weights_bytes"] == manifest.weights_bytes
        assert (result["activation_bytes"], result["kernels"]) == (3072, 3)

    def test_options_reach_the_compiler(self, run, model, compiler, tmp_path):
        options = [
            "--target",
            "adreno-740",
            "--weights",
            "fp16",
            "--cut",
            2,
            "--size",
            "128x64",
            "--batch",
            4,
        ]
        options += ["--host", "aarch64-linux-android", "--memory-budget", "1.5MiB", "--tune-log", tmp_path]
        lora = tmp_path / "ink.safetensors"
        lora.write_bytes(b"")
        options += ["--lora", f"{lora}:0.5", "--image-to-image", "--accumulate", "float32"]
        options += ["--activations", "float", "--activations", "mid_block.*=float"]
        options += [
            "--limit",
            "max_allocation=268435456",
            "--keep-fp16",
            "mid_block.*",
            "--keep-fp16",
            "*.to_q",
            "--guide-in-one-call",
        ]
        assert run("compile", model, "-o", tmp_path / "out", *options).code == 0
        expected = {
            "target": "adreno-740",
            "weights": "fp16",
            "cut": 2,
            "width": 128,
            "height": 64,
            "more_sizes": (),
            "batch": 4,
            "host": "aarch64-linux-android",
            "memory_budget": 3 << 19,
            "tune_log": str(tmp_path),
            "dump_ir": None,
            "image_to_image": True,
            "accumulate": ("float32",),
            "activations": ("float", "mid_block.*=float"),
            "attention": "float",
            "keep_fp16": ("mid_block.*", "*.to_q"),
            "limits": ("max_allocation=268435456",),
            "loras": (f"{lora}:0.5",),
            "guide_in_one_call": True,
        }
        assert dataclasses.asdict(compiler.calls[0][2]) == expected

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--target", "vulkan"], "--target: 'vulkan' is none of: opencl, adreno-740, llvm"),
            (["--weights", "int4"], "--weights: 'int4' is none of"),
            (["--cut", "-1"], "--cut: -1 is negative"),
            (["--size", "100x100"], "--size: width 100 is not a multiple of 8"),
            (["--batch", "0"], "--batch: 0 is outside 1 … 64"),
            (["--host", "riscv"], "--host: 'riscv' is none of"),
            (["--accumulate", "double"], "--accumulate: 'double' does not say how to sum; write one of"),
            (["--activations", "int4"], "--activations: 'int4' does not say what activations are"),
            (
                ["--activations", "int8", "--weights", "fp16"],
                "--activations: int8 does not go with",
            ),
            (["--attention", "half"], "--attention: 'half' is none of: float, bfloat16"),
            (["--attention", "bfloat16", "--weights", "fp32"], "--attention: bfloat16 does not go with"),
            (["--attention", "bfloat16", "--target", "adreno-740"], "--attention: adreno-740 multiplies in"),
            (["--activations", "int8", "--target", "adreno-740"], "--activations: adreno-740 multiplies in"),
            (["--limit", "max_speed=1"], "--limit: 'max_speed=1' is no limit; write NAME=NUMBER"),
            (["--limit", "max_threads=0"], "--limit: 'max_threads=0' is no limit"),
            (["--memory-budget", "much"], "--memory-budget: 'much' is no number of bytes"),
            (["--memory-budget", "0"], "--memory-budget: 0 bytes is no budget"),
            (["--tune-log", "/no/such"], "--tune-log: /no/such is not a folder"),
            (["-o", "/no/such/bundle"], "/no/such: the folder does not exist"),
            (["-o", "/usr"], "/usr: holds files that are no bundle"),
        ],
    )
    def test_wrong_usage(self, run, model, compiler, tmp_path, options, message):
        done = run("compile", model, "-o", tmp_path / "out", *options)
        assert done.code == 2
        assert message in done.err
        assert compiler.calls == []
        assert not (tmp_path / "out").exists()

    def test_folder_without_a_model(self, run, compiler, tmp_path):
        done = run("compile", tmp_path, "-o", tmp_path / "out")
        assert done.code == 2
        assert "MODEL: " in done.err
        assert "holds no model_index.json" in done.err


class TestInspect:
    def test_json(self, run, fake_bundle):
        result = run("inspect", fake_bundle, "--json").json
        assert (result["macs_full"], result["macs_cached"], result["activation_bytes"]) == (1000, 100, 3072)
        assert [kernel["name"] for kernel in result["kernels"]] == [
            "text_encoder_main",
            "unet_main",
            "vae_decoder_main",
        ]
        assert result["kernels"][1]["calls"] == dict.fromkeys(UNET, 1)
        # Two calls a step: 10 full and 40 cached ones save 30 and 20, less 50 a prompt and 50 a schedule.
        assert result["macs_once"] == {"embed_time": 50, "project_context": 50}
        assert result["macs_saved"] == {"full": 30, "cached": 20, "image": 2 * (10 * 30 + 40 * 20 - 50) - 50}
        assert result["passes"][0]["note"] == "left everything alone"

    def test_table(self, run, fake_bundle):
        done = run("inspect", fake_bundle)
        for words in ("unet_main", "FuseNothing", "left everything alone", "full 1, cached 1", "0 of 0 … 2"):
            assert words in done.out
        assert "once for 64 steps  embed_time, 5e-08 GMAC" in done.out

    def test_layers(self, run, fake_bundle):
        work = run("inspect", fake_bundle, "--layers", "--json").json["layers"]
        assert [(entry["component"], entry["function"]) for entry in work] == [
            ("text_encoder", "encode"),
            *(("unet", function) for function in UNET),
            ("vae_decoder", "decode"),
        ]
        assert set(work[0]) == {"component", "function", "layer", "launches", "macs", "flops", "bytes"}
        assert (work[0]["layer"], work[0]["launches"], work[0]["bytes"]) == ("conv_in", 1, 3072)
        kernels = run("inspect", fake_bundle, "--json").json["kernels"]
        assert kernels[1]["layers"] == ["conv_in"]
        assert "conv_in" in run("inspect", fake_bundle, "--layers").out

    def test_memory(self, run, fake_bundle):
        done = run("inspect", fake_bundle, "--memory")
        for words in ("cached", "1.02 KB", "512 B", "2×64", "unet_main"):
            assert words in done.out
        peaks = run("inspect", fake_bundle, "--json").json["components"]["vae_decoder"]["peaks"]
        assert [(peak["function"], peak["bytes"]) for peak in peaks] == [("decode", 512)]

    def test_source(self, run, fake_bundle):
        assert run("inspect", fake_bundle, "--source", "unet_main").out == "void unet_main();\n"

    def test_source_of_no_kernel(self, run, fake_bundle):
        done = run("inspect", fake_bundle, "--source", "unet")
        assert done.code == 2
        assert (
            "--source: no kernel 'unet' with a source is in the bundle; did you mean unet_main?" in done.err
        )

    def test_no_bundle(self, run, tmp_path):
        done = run("inspect", tmp_path, "--json")
        assert done.code == 1
        assert f"{tmp_path}: has no manifest.json" in done.err
        assert done.out == ""


class TestDevices:
    def test_json(self, run):
        result = run("devices", "--json").json
        assert result["devices"][-1]["device"] == "llvm"
        opencl = [entry["device"] for entry in result["devices"][:-1]]
        assert opencl == [f"opencl:{index}" for index in range(len(opencl))]
        assert (result["missing"] is None) == bool(opencl)

    def test_nothing_but_the_cpu(self, run, monkeypatch):
        monkeypatch.setattr(devices, "describe_missing", lambda: "no driver; install one")
        done = run("devices")
        assert done.code == 0
        assert "llvm" in done.out
        assert "no OpenCL device: no driver; install one" in done.err

    def test_generate_falls_back_to_the_cpu(self, run, model, cache, compiler, tmp_path, monkeypatch):
        monkeypatch.setattr(choose, "describe_missing", lambda: "no driver")
        done = run("generate", "x", "--model", model, "-o", tmp_path / "x.png", "--json")
        assert done.code == 0
        assert done.json["device"] == "llvm"
        assert "no OpenCL device is there, running on the CPU" in done.err


class TestDoctor:
    def test_json(self, run, cache):
        result = run("doctor", "--json").json
        names = {check["name"] for check in result["checks"]}
        assert {"Python", "apache-tvm", "torch", "OpenCL plug-in", "cache folder", "disk space"} <= names
        for check in result["checks"]:
            assert check["state"] in ("ok", "missing", "wrong")
            assert check["state"] == "ok" or check["remedy"]
        assert not cache.exists()

    def test_wrong_pin_fails(self, run, cache, monkeypatch):
        version = doctor.importlib.metadata.version
        monkeypatch.setattr(
            doctor.importlib.metadata, "version", lambda name: "0.1.15" if "ffi" in name else version(name)
        )
        done = run("doctor")
        assert done.code == 1
        assert "wrong    apache-tvm-ffi: 0.1.15, tested with 0.1.14.post1 only" in done.out
        assert "→ pip install apache-tvm-ffi==0.1.14.post1" in done.out

    def test_missing_linker_does_not_fail(self, run, cache, monkeypatch):
        monkeypatch.setattr(linker.shutil, "which", lambda _: None)
        monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
        monkeypatch.delenv("ANDROID_NDK_ROOT", raising=False)
        done = run("doctor")
        assert done.code == 0
        assert "→ for --host aarch64-linux-gnu: install lld, or g++-aarch64-linux-gnu" in done.out
        assert "→ for --host aarch64-linux-android: set ANDROID_NDK_HOME" in done.out


class TestServe:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "--key: is missing; choose one"),
            (["--key", ""], "--key: is empty"),
            (["--key", "a/b"], "--key: takes up to 200 ASCII letters"),
            (["--key", "k"], "--store: is missing"),
            (["--key", "k", "--store", "{tmp}", "--port", "65536"], "--port: 65536 is outside"),
            (
                ["--key", "k", "--store", "{tmp}", "--host", "0.0.0.0"],
                "--host: 0.0.0.0 can be reached from other",
            ),
            (["--key", "k", "--store", "{tmp}", "--host", "no.such.invalid"], "is no address of a machine"),
            (["--key", "k", "--store", "/proc/no"], "--store: /proc/no cannot be written"),
            (
                ["--key", "k", "--store", "{tmp}", "--device", "rpc://a:1/b"],
                "is not a device of this machine",
            ),
        ],
    )
    def test_wrong_usage(self, run, tmp_path, monkeypatch, options, message):
        monkeypatch.delenv("DDIMCACHE_KEY", raising=False)
        done = run("serve", "--device", "llvm", *(option.format(tmp=tmp_path) for option in options))
        assert done.code == 2
        assert message in done.err

    def test_says_why_it_stays_at_home(self, run, tmp_path):
        done = run("serve", "--device", "llvm", "--key", "k", "--store", tmp_path, "--host", "0.0.0.0")
        assert "lets whoever knows the key run any code here, over an unencrypted connection" in done.err
        assert "--allow-other-machines" in done.err

    def test_port_in_use(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            command = [sys.executable, "-m", "ddimcache.cli", "serve", "--device", "llvm", "--key", "k"]
            command += ["--store", str(tmp_path), "--port", str(port)]
            done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert (
            f"127.0.0.1:{port}: cannot listen: Address already in use; choose another --port" in done.stderr
        )
        assert "Traceback" not in done.stderr


def test_output_into_a_pipe_that_closes(fake_bundle):
    command = f"{sys.executable} -m ddimcache.cli inspect {fake_bundle} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_numbers_for_people():
    assert bytes_text(1_800_000_000) == "1.8 GB"
    assert bytes_text(999) == "999 B"
    assert seconds_text(0.0831) == "83.1 ms"
    assert seconds_text(None) == "–"
    assert parse_bytes("2G", "--memory-budget") == 2_000_000_000
    assert parse_bytes(None, "--memory-budget") is None
    with pytest.raises(UsageError):
        parse_bytes("2I", "--memory-budget")


def test_json_is_json(run, fake_bundle):
    for verb in (["inspect", fake_bundle], ["devices"], ["doctor"]):
        assert isinstance(json.loads(run(*verb, "--json").out), dict)
