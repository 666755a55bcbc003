"""The embedded model: Stable Diffusion 1.5's topology at small widths, trained on drawings of shapes."""

# What `PipelineFolder.fingerprint` makes of the folder `weights`, by which bundles of it are known where no
# compiler is installed to compute it. A test holds the two against each other.
FINGERPRINT = "955bcb6a677d9e50095bf5d99705423bf8e2902ebe9fed6369d2d31b08b65c1d"
