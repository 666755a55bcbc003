"""ddimcache: Stable-Diffusion-family models compiled with Apache TVM for OpenCL devices.

The packages below are the stages that a model passes, in order: ``compiler`` (frontend, passes,
build), ``kernels`` and ``schedules``, ``runtime`` (imports nothing of the compiler).
"""

__version__ = "0.1.0"
