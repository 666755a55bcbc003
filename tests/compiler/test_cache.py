"""Compiled bundles are found again by content, and compiled once however many ask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddimcache.compiler import cache, fingerprint
from ddimcache.compiler.options import CompileOptions, missing_records, rounds_activations
from ddimcache.errors import UsageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights").write_bytes(b"weights")
    return folder


def test_key_follows_contents_not_places(model, tmp_path):
    key = cache.bundle_key(model, CompileOptions())
    moved = model.rename(tmp_path / "elsewhere")
    assert cache.bundle_key(moved, CompileOptions()) == key
    (moved / ".hidden").write_text("x")
    assert cache.bundle_key(moved, CompileOptions()) == key
    (moved / "unet" / "weights").rename(moved / "unet" / "weight")
    assert cache.bundle_key(moved, CompileOptions()) != key


def test_key_follows_every_option(model):
    others = [
        CompileOptions(target="llvm"),
        CompileOptions(weights="fp16"),
        CompileOptions(cut=1),
        CompileOptions(width=64, height=128),
        CompileOptions(width=128, height=64),
        CompileOptions(batch=2),
        CompileOptions(host="aarch64-linux-gnu"),
        CompileOptions(memory_budget=1000),
        CompileOptions(tune_log=str(model)),
    ]
    keys = {cache.bundle_key(model, options) for options in [CompileOptions(), *others]}
    assert len(keys) == len(others) + 1


def test_key_follows_the_compilers_sources(model, monkeypatch):
    key = cache.bundle_key(model, CompileOptions())
    monkeypatch.setattr(cache, "compiler_digest", lambda: "edited")
    assert cache.bundle_key(model, CompileOptions()) != key


def test_compilers_digest_follows_every_source(tmp_path, monkeypatch):
    package = tmp_path / "package"
    for folder in ("compiler/passes", "kernels", "schedules", "runtime"):
        (package / folder).mkdir(parents=True)
    monkeypatch.setattr(fingerprint, "__file__", str(package / "compiler" / "fingerprint.py"))
    seen = {fingerprint.compiler_digest()}
    for name in ("compiler/passes/a.py", "kernels/b.cl", "schedules/c.json"):
        (package / name).write_text("x")
        seen.add(fingerprint.compiler_digest())
    (package / "compiler/passes/a.py").write_text("y")
    seen.add(fingerprint.compiler_digest())
    assert len(seen) == 5
    (package / "runtime" / "d.py").write_text("x")
    assert fingerprint.compiler_digest() in seen


def test_same_size_edit_is_seen_through_the_memo(model, tmp_path):
    memo = tmp_path / "memo.json"
    first = fingerprint.folder_fingerprint(model, memo)
    assert fingerprint.folder_fingerprint(model, memo) == first
    (model / "unet" / "weights").write_bytes(b"WEIGHTS")
    second = fingerprint.folder_fingerprint(model, memo)
    assert second != first
    assert second == fingerprint.folder_fingerprint(model)


def test_a_component_that_is_a_link_counts(model, tmp_path):
    """Pipelines are put together so; what it links to may change."""
    other = (model / "unet").rename(tmp_path / "other")
    before = cache.bundle_key(model, CompileOptions())
    (model / "unet").symlink_to(other)
    linked = cache.bundle_key(model, CompileOptions())
    (other / "weights").write_bytes(b"WEIGHTS")
    changed = cache.bundle_key(model, CompileOptions())
    (other / "round").symlink_to(model)
    (model / "itself").symlink_to(model)
    (model / "broken").symlink_to(tmp_path / "nowhere")
    assert cache.bundle_key(model, CompileOptions()) == changed
    assert len({before, linked, changed}) == 3


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_torn_memo_costs_nothing(model, tmp_path, content):
    memo = tmp_path / "memo.json"
    memo.write_text(content)
    assert fingerprint.folder_fingerprint(model, memo) == fingerprint.folder_fingerprint(model)


def test_two_processes_compile_once(model, tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from ddimcache.compiler.cache import kept_bundle\n"
        "from ddimcache.compiler.options import CompileOptions\n"
        "def compile_to(path):\n"
        "    Path(sys.argv[2], str(os.getpid())).touch(); time.sleep(1); path.mkdir()\n"
        "options, nobody = CompileOptions(), lambda _: True\n"
        "print(kept_bundle(Path(sys.argv[1]), options, compile_to, nobody, nobody))\n"
    )
    log = tmp_path / "log"
    log.mkdir()
    command = [sys.executable, "-c", code, str(model), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(paths) == 1
    assert len(list(log.iterdir())) == 1


def test_failed_compilation_leaves_nothing(model, own_cache):
    def fail(path: Path) -> None:
        raise UsageError("no")

    with pytest.raises(UsageError):
        cache.kept_bundle(model, CompileOptions(), fail, lambda _: True, print)
    assert [path for path in (own_cache / "bundles").iterdir() if path.is_dir()] == []


def test_what_killed_compilations_left_is_removed(model, own_cache):
    key = cache.bundle_key(model, CompileOptions())
    bundles = own_cache / "bundles"
    ours, old, fresh = (bundles / name for name in (f".{key}.x.part", ".ddimcache-old", ".ddimcache-fresh"))
    for folder in (ours, old, fresh):
        (folder / "deep").mkdir(parents=True)
    os.utime(old, (0, 0))
    cache.kept_bundle(model, CompileOptions(), Path.mkdir, lambda _: True, print)
    assert [folder.exists() for folder in (ours, old, fresh)] == [False, False, True]


class TestOptions:
    """Options as JSON; the command line's tests have their limits."""

    def test_survive_json(self):
        options = CompileOptions(target="adreno-740", width=512, height=768, memory_budget=10**9)
        assert CompileOptions.from_json(options.to_json()) == options

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"colour": "red"}', "compile options: unknown key 'colour'"),
            ('{"cut": "1"}', "compile options: cut: expected a whole number, found a text"),
            ('{"cut": -1}', "--cut: -1 is negative"),
            ('{"width": 64}', "--size: give both width and height"),
            ("[]", "compile options: expected an object, found a list"),
            ("{", "compile options: not JSON"),
        ],
    )
    def test_refuse(self, text, message):
        with pytest.raises(UsageError) as caught:
            CompileOptions.from_json(text)
        assert message in str(caught.value)


class TestWhatABundleKeeps:
    """Options that a manifest tells by no field of its own, for variants of the bundle."""

    def test_nothing_by_default(self):
        assert CompileOptions(cut=3, weights="fp32").untold() == {}

    def test_a_variant_has_them(self):
        given = CompileOptions(
            accumulate=("float32",), limits=("max_threads=64",), memory_budget=10**9, tune_log="none"
        )
        variant = CompileOptions(cut=2).with_untold({"ddimcache": "0.1.0", **given.untold()})
        assert variant == CompileOptions(
            cut=2,
            accumulate=("float32",),
            limits=("max_threads=64",),
            memory_budget=10**9,
            tune_log="none",
        )

    def test_rounded_activations_belong_to_rounded_weights(self):
        kept = CompileOptions(activations=("int8", "mid_block.*=float")).untold()
        assert rounds_activations(kept)
        assert CompileOptions(cut=2).with_untold(kept).activations == ("int8", "mid_block.*=float")
        assert CompileOptions(weights="fp32").with_untold(kept) == CompileOptions(weights="fp32")
        kept = CompileOptions(attention="bfloat16").untold()
        assert rounds_activations(kept)
        assert CompileOptions(weights="fp16").with_untold(kept).attention == "bfloat16"
        assert CompileOptions(weights="fp32").with_untold(kept) == CompileOptions(weights="fp32")
        assert not rounds_activations(CompileOptions(activations=("float",)).untold())

    def test_tuning_records_are_found_from_another_folder(self, tmp_path, monkeypatch):
        (tmp_path / "log").mkdir()
        monkeypatch.chdir(tmp_path)
        kept = CompileOptions(tune_log="log").untold()
        monkeypatch.chdir("/")
        assert missing_records(kept) is None
        assert CompileOptions(cut=2).with_untold(kept).tune_log == str(tmp_path / "log")

    def test_tuning_records_that_are_gone_are_left_out(self, tmp_path):
        (tmp_path / "log").mkdir()
        kept = CompileOptions(tune_log=str(tmp_path / "log"), accumulate=("float32",)).untold()
        (tmp_path / "log").rmdir()
        assert missing_records(kept) == str(tmp_path / "log")
        assert CompileOptions().with_untold(kept) == CompileOptions(accumulate=("float32",))

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            '{"cut": 1}',
            '{"tune_log": 1}',
            '{"limits": "x"}',
            '{"limits": ["x"]}',
            '{"memory_budget": "1"}',
        ],
    )
    def test_what_else_stands_there_is_refused(self, text):
        with pytest.raises(UsageError):
            CompileOptions().with_untold({"options": text})


def test_cache_folder_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "ddimcache"
    assert not os.listdir(tmp_path)
