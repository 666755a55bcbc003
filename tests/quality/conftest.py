"""A small bundle to read, and a copy to change."""

import shutil
from pathlib import Path

import pytest

from tests.fakes.fake_bundle import build_fake_bundle


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory) -> Path:
    """A bundle to read."""
    folder = tmp_path_factory.mktemp("fake")
    return build_fake_bundle(folder / "bundle", folder)


@pytest.fixture
def own_bundle(fake_bundle, tmp_path) -> Path:
    """A copy of the bundle to change."""
    return Path(shutil.copytree(fake_bundle, tmp_path / "bundle"))
