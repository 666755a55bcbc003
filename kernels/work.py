"""How kernels that are written by hand tell their arithmetic."""

WORK = "ddimcache.macs"
"""Attribute of a kernel: multiply-accumulates of one launch."""
