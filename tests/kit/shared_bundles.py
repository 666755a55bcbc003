"""Bundles that are compiled once a run of the tests, by whichever of its processes asks first."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle

_FOLDER = "DDIMCACHE_TEST_BUNDLES"


def keep_bundles_for_the_run(config: pytest.Config) -> None:
    """Make the folder for them, which the processes of pytest-xdist inherit, and which goes with the run."""
    if hasattr(config, "workerinput"):
        return
    os.environ[_FOLDER] = folder = tempfile.mkdtemp(prefix="ddimcache-bundles-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def compiled(model: Path, **options: object) -> Bundle:
    """The bundle of a model's contents and these options; copy it to change it.

    Every pass on the way is checked to leave a well-formed module. What a test changed all the same is found
    by the sums of its files, by the next one that asks.
    """
    from ddimcache.compiler.build import compile_pipeline
    from ddimcache.compiler.fingerprint import folder_fingerprint
    from ddimcache.compiler.options import CompileOptions
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.progress import SilentProgress
    from tests.kit.well_formed import every_module_well_formed

    chosen = CompileOptions(**options)  # type: ignore[arg-type]
    facts = (model.name, folder_fingerprint(model), chosen.to_json())
    folder = Path(os.environ[_FOLDER]) / hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    path = folder / "bundle"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with every_module_well_formed():
                compile_pipeline(model, path, chosen, SilentProgress())
    return open_bundle(path)
