"""Every pass in these tests is checked to leave a well-formed module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.well_formed import every_module_well_formed


@pytest.fixture(autouse=True)
def well_formed() -> Iterator[None]:
    with every_module_well_formed():
        yield
