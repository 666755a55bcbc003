// Tensors in buffers, seen by kernels as two-dimensional images.
#pragma once

#include <tvm/ffi/container/tensor.h>

namespace ddimcache::opencl {

// A tensor [..., width, 4] of which kernels that take an image2d_t read pixels; all axes before the last two
// are rows. Where the device has cl_khr_image2d_from_buffer, the rows are evenly apart at its alignment and
// the tensor starts where its buffer does, it lies in the memory of `tensor`, which it keeps alive: a write
// to one is seen through the other. Otherwise it is a copy of what `tensor` holds now. Throws ValueError for
// what no image can hold, RuntimeError for one beyond the limits of the device.
tvm::ffi::Tensor ViewTensorAsImage(tvm::ffi::Tensor tensor);

}  // namespace ddimcache::opencl
