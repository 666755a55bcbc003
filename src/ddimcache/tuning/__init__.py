"""Finds good tiles for single kernels by building, checking and timing candidates."""
