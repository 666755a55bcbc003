"""Makes OpenCL drivers that came as Python packages visible to the plug-in."""

from __future__ import annotations


def expose_packaged_drivers() -> None:
    """Nothing yet."""
