"""What runs next to the device: OpenCL plug-in, bundle reader, sampler, RPC. Imports nothing of the compiler."""
