"""The kernels of a model one by one, against PyTorch and CLBlast."""
