// Buffers and images on a device: what `DLTensor::data` points to, and their allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device.h"
#include "image.h"

namespace ddimcache::opencl {

// The pointee of every tensor handle that this runtime gives to TVM. TVM passes the handle around as an
// opaque pointer and never reads it.
struct Memory {
  static constexpr uint64_t kMagic = 0x636C6D656D6F7279;  // "clmemory"

  uint64_t magic = kMagic;
  cl_mem handle = nullptr;
  Device* device = nullptr;
  size_t bytes = 0;
  // All zero for a buffer.
  ImageShape image;
  MemoryKind kind = MemoryKind::kOther;
  // Whether it is kept for reuse when it is freed.
  bool pooled = false;
  // Made for one tensor on top of a storage that keeps its own memory.
  bool is_view = false;
  // An image in the memory of a buffer, which is counted there.
  bool shares_storage = false;

  bool is_image() const { return image.width != 0; }

  // The memory behind a handle. Throws ValueError, naming `use`, for null and for pointers that visibly are
  // not one (a host tensor passed by mistake).
  static Memory* FromHandle(void* handle, const char* use);
};

// How memory is allocated.
struct Allocation {
  // The kind where no MemoryKindScope says another.
  MemoryKind kind = MemoryKind::kOther;
  // Kept for reuse when it is freed; a buffer may then be larger than asked for, by a quarter at most.
  // Weights never are: they are large and come back only when their component is loaded again.
  bool pooled = false;
  // Used by one call alone, which writes it before it reads it: taken from the thread's Arena, if it has one.
  bool planned = false;
};

// `bytes` may be 0. Throws RuntimeError naming size and limit where the device allows no buffer this large,
// or the budget of the device no more memory.
Memory* AllocateBuffer(Device& device, size_t bytes, Allocation allocation = {});

// As above, naming the sides and the device's limits. Counts as images.
Memory* AllocateImage(Device& device, const ImageShape& shape, bool pooled = false);

// Whether an image of one layer can lie in the memory of a buffer, from its start, with rows so many bytes
// apart: the device needs cl_khr_image2d_from_buffer, rows at its alignment, and a buffer with all of the
// last.
bool CanBeImage(const Memory& buffer, const ImageShape& shape, size_t row_pitch);

// That image; nothing is copied, and the buffer has to live longer.
Memory* ViewAsImage(Memory& buffer, const ImageShape& shape, size_t row_pitch);

// Does not wait for running commands; see MemoryPool::GiveBack.
void Free(Memory* memory);

}  // namespace ddimcache::opencl
