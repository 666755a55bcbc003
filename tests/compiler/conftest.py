"""Every pass of the compilations in these tests is checked to leave a well-formed module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.well_formed import every_module_well_formed


@pytest.fixture(scope="module", autouse=True)
def well_formed() -> Iterator[None]:
    """As long as a module's tests run: what they compile is often made once for all of them."""
    with every_module_well_formed():
        yield
