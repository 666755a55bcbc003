"""Reads a diffusers pipeline folder and turns each component into Relax."""
