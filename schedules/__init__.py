"""Schedule rules for the kernels."""
