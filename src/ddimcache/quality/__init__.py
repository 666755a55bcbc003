"""How good a bundle's pictures are: measured against the uncompressed model and against real drawings."""
