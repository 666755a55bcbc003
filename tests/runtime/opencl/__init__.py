"""The OpenCL plug-in, from TVM's side and on its own."""
