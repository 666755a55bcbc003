"""Relax passes, one a file; the order in which they run is in ``ddimcache.compiler.pipeline``."""
