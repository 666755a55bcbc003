"""The embedded model: Stable Diffusion 1.5's topology at small widths, trained on drawings of shapes."""
