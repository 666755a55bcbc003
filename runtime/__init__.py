"""What runs next to the device: OpenCL plug-in, bundle reader, sampler, RPC; nothing of the compiler."""
