"""Measurements: every one checks the answer before it reports a time."""
