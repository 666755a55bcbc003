"""A bundle to run campaigns on."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """A compiled model of SD 1.5's family, small enough to draw in a second."""
    from tests.kit.family import stand_in
    from tests.kit.shared_bundles import compiled

    return compiled(stand_in("tiny-sd15"), target="llvm", weights="int8").folder
