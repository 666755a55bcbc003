"""The embedded model: a small Stable Diffusion that draws coloured shapes."""
