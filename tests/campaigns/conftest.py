"""A bundle to run campaigns on."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """A compiled model of SD 1.5's family, small enough to draw in a second."""
    from tests.kit.device_run import compile_to
    from tests.kit.family import stand_in

    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    compile_to(stand_in("tiny-sd15"), folder, target="llvm", weights="int8")
    return folder
