// Copies between the host, buffers and images.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>

#include "memory.h"

namespace ddimcache::opencl {

// Copies `bytes`; the ranges are checked against the memory, and copies from or to the host have finished on
// return. An image is copied whole: offset 0 and its full size, rows packed without gaps.
void CopyToDevice(const void* source, Memory* target, size_t offset, size_t bytes);
void CopyToHost(Memory* source, size_t offset, void* target, size_t bytes);
// In queue order, without waiting, when both live on one device; through the host otherwise.
void CopyOnDevice(Memory* source, size_t source_offset, Memory* target, size_t target_offset, size_t bytes);

// Copies the contents of a tensor into another of the same bytes; at least one of them is on an OpenCL
// device, the other there or on the host. Where both are compact, their shapes need not agree; otherwise
// shapes and types have to be the same, and strides may be any: rows may be padded, and axes in any order. An
// image is compact. Throws ValueError for tensors that cannot be copied so, such as one with elements that
// overlap.
void CopyTensor(const DLTensor& from, const DLTensor& to);

}  // namespace ddimcache::opencl
