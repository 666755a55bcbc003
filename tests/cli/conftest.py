"""A stand-in for the compiler, and the command line run in this process."""

import json
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ddimcache import cli
from ddimcache.compiler.bundle import write_bundle
from ddimcache.runtime.bundle import open_bundle


@dataclass
class Finished:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one object on standard output."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys):
    """Run a command line in this process."""

    def run_it(*arguments) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in captured.err
        return Finished(0 if code is None else code, captured.out, captured.err)

    return run_it


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty folder for compiled models."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DDIMCACHE_CACHE", str(folder))
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder that looks like a diffusers model as far as the command line looks."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.bin").write_bytes(b"weights")
    return folder


@pytest.fixture
def compiler(fake_bundle, monkeypatch):
    """A compiler that copies the small bundle; ``compiler.calls`` has what it was asked for."""

    def compile_pipeline(model_dir, out_dir, options, progress):
        module.calls.append((model_dir, out_dir, options))
        bundle = open_bundle(fake_bundle)
        files = {name: bundle.path(name) for name in bundle.manifest.files}
        with progress.stage("compile", 1) as stage:
            write_bundle(out_dir, replace(bundle.manifest, cut=options.cut, weights=options.weights), files)
            stage.advance()
        return types.SimpleNamespace(skipped_records=module.skipped)

    module = types.ModuleType("ddimcache.compiler.build")
    module.calls = []
    module.skipped = ()
    module.compile_pipeline = compile_pipeline
    monkeypatch.setitem(sys.modules, "ddimcache.compiler.build", module)
    return module
