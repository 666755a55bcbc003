// How the elements of two tensors of one shape lie, as stretches that can be copied at once.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ddimcache::opencl {

// `count` repetitions of what lies further inside, so many bytes apart in either tensor.
struct StridedAxis {
  size_t count;
  size_t from_pitch, to_pitch;
};

struct StridedLayout {
  // Bytes that are contiguous in both.
  size_t row_bytes = 0;
  // From the inside out; empty where all is one row.
  std::vector<StridedAxis> axes;

  bool empty() const { return row_bytes == 0; }
  size_t bytes() const;
  // From the first byte to behind the last.
  size_t from_extent() const;
  size_t to_extent() const;
};

// Throws ValueError for elements below a byte, for strides below zero and for elements that overlap. The
// shapes and types have to be the same.
StridedLayout CommonLayout(const DLTensor& from, const DLTensor& to);

// Copies on the host.
void CopyLayout(const StridedLayout& layout, const uint8_t* from, uint8_t* to);

}  // namespace ddimcache::opencl
