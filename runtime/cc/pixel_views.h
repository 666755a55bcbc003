// Images over buffers: what a kernel reads pixels from when it is given a buffer.
#pragma once

#include <cstddef>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "opencl_types.h"

namespace ddimcache::opencl {

class Device;
struct Memory;

// The images (image1d_buffer_t) over the buffers of a device, made at first use and kept as long as their
// buffer. They hold no memory of their own. Thread-safe.
class PixelViews {
 public:
  // The image over all whole pixels of `buffer`, four channels of `channel_type` each. Throws ValueError for
  // an image, RuntimeError where the device's images over buffers are smaller, or where the driver refuses.
  cl_mem Over(Device& device, const Memory& buffer, cl_uint channel_type);

  // The images over `buffer`, which nobody gets from here any more: for its owner, who is about to release
  // it.
  std::vector<cl_mem> Forget(cl_mem buffer);

 private:
  struct View {
    cl_uint channel_type;
    size_t pixels;
    cl_mem image;
  };

  std::mutex mutex_;
  std::unordered_map<cl_mem, std::vector<View>> views_;
};

}  // namespace ddimcache::opencl
