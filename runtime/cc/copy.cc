#include "copy.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>

#include <memory>
#include <string>
#include <vector>

#include "recording.h"
#include "strided.h"

namespace ddimcache::opencl {
namespace {

constexpr size_t kOrigin[3] = {0, 0, 0};

void CheckRange(const Memory* memory, size_t offset, size_t bytes, const char* what) {
  // Written so that neither side can overflow.
  if (offset > memory->bytes || bytes > memory->bytes - offset) {
    TVM_FFI_THROW(ValueError) << "OpenCL copy of " << bytes << " bytes at offset " << offset << " leaves the "
                              << what << " of " << memory->bytes << " bytes on "
                              << memory->device->Describe();
  }
  if (memory->is_image() && (offset != 0 || bytes != memory->bytes)) {
    TVM_FFI_THROW(ValueError) << "OpenCL copy of " << bytes << " bytes at offset " << offset
                              << ": an image is copied whole, and this one has " << memory->bytes << " bytes";
  }
}

// Enqueues one copy from or to the host and throws, naming call and size, when it fails.
template <typename Enqueue>
void Copy(Device& device, const char* label, const char* call, size_t bytes, Enqueue enqueue) {
  RefuseWhileRecording("a copy of " + std::to_string(bytes) + " bytes from or to the host");
  const cl_int code = device.queue().Submit(label, enqueue);
  if (code != kSuccess) {
    ThrowError(code, call, "of a copy of " + std::to_string(bytes) + " bytes on " + device.Describe());
  }
}

// As above for a copy that blocks: when it has run, so has everything before it.
template <typename Enqueue>
void BlockingCopy(Device& device, const char* label, const char* call, size_t bytes, Enqueue enqueue) {
  Queue& queue = device.queue();
  const uint64_t before = queue.enqueued();
  Copy(device, label, call, bytes, enqueue);
  // With other threads at work, the next one counted need not be this copy.
  queue.NoteFinished(queue.enqueued() == before + 1 ? before + 1 : before);
}

// As Copy between `memory` on the device, or adds it to the recording that this thread makes: so `enqueue`
// holds everything by value.
template <typename Enqueue>
void CopyThere(Device& device, const char* label, const char* call, size_t bytes,
               std::initializer_list<cl_mem> memory, Enqueue enqueue) {
  if (Recording* recording = Recording::Current()) {
    recording->AddCopy(device, {label, call, bytes, enqueue}, {memory.begin(), memory.size()});
    return;
  }
  Copy(device, label, call, bytes, enqueue);
}

struct Region {
  size_t sides[3];
  explicit Region(const ImageShape& image) : sides{image.width, image.height, image.layers} {}
};

bool Overlap(size_t first, size_t second, size_t bytes) {
  return (first > second ? first - second : second - first) < bytes;
}

}  // namespace

void CopyToDevice(const void* source, Memory* target, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(target, offset, bytes, "target");
  Device& device = *target->device;
  if (target->is_image()) {
    const Region region(target->image);
    BlockingCopy(device, "copy host to image", "clEnqueueWriteImage", bytes,
                 [&](cl_command_queue queue, cl_event* event) {
                   return device.api.clEnqueueWriteImage(queue, target->handle, kBlocking, kOrigin,
                                                         region.sides, 0, 0, source, 0, nullptr, event);
                 });
    return;
  }
  BlockingCopy(device, "copy host to device", "clEnqueueWriteBuffer", bytes,
               [&](cl_command_queue queue, cl_event* event) {
                 return device.api.clEnqueueWriteBuffer(queue, target->handle, kBlocking, offset, bytes,
                                                        source, 0, nullptr, event);
               });
}

void CopyToHost(Memory* source, size_t offset, void* target, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(source, offset, bytes, "source");
  Device& device = *source->device;
  if (source->is_image()) {
    const Region region(source->image);
    BlockingCopy(device, "copy image to host", "clEnqueueReadImage", bytes,
                 [&](cl_command_queue queue, cl_event* event) {
                   return device.api.clEnqueueReadImage(queue, source->handle, kBlocking, kOrigin,
                                                        region.sides, 0, 0, target, 0, nullptr, event);
                 });
    return;
  }
  BlockingCopy(device, "copy device to host", "clEnqueueReadBuffer", bytes,
               [&](cl_command_queue queue, cl_event* event) {
                 return device.api.clEnqueueReadBuffer(queue, source->handle, kBlocking, offset, bytes,
                                                       target, 0, nullptr, event);
               });
}

void CopyOnDevice(Memory* source, size_t source_offset, Memory* target, size_t target_offset, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(source, source_offset, bytes, "source");
  CheckRange(target, target_offset, bytes, "target");
  const bool both_images = source->is_image() && target->is_image();
  // Other devices are other contexts; images of different shape hold the same bytes in another arrangement.
  if (source->device != target->device || (both_images && source->image != target->image)) {
    std::vector<uint8_t> staging(bytes);
    CopyToHost(source, source_offset, staging.data(), bytes);
    CopyToDevice(staging.data(), target, target_offset, bytes);
    return;
  }
  if (source == target) {
    if (source_offset == target_offset) return;
    if (Overlap(source_offset, target_offset, bytes)) {
      // OpenCL refuses overlapping copies.
      const std::unique_ptr<Memory, void (*)(Memory*)> staging(AllocateBuffer(*source->device, bytes), Free);
      CopyOnDevice(source, source_offset, staging.get(), 0, bytes);
      CopyOnDevice(staging.get(), 0, target, target_offset, bytes);
      return;
    }
  }
  Device& device = *source->device;
  const Api& api = device.api;
  const cl_mem from = source->handle, to = target->handle;
  if (both_images) {
    CopyThere(device, "copy image to image", "clEnqueueCopyImage", bytes, {from, to},
              [=, &api, region = Region(source->image)](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyImage(queue, from, to, kOrigin, kOrigin, region.sides, 0, nullptr,
                                              event);
              });
  } else if (source->is_image()) {
    CopyThere(device, "copy image to buffer", "clEnqueueCopyImageToBuffer", bytes, {from, to},
              [=, &api, region = Region(source->image)](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyImageToBuffer(queue, from, to, kOrigin, region.sides, target_offset,
                                                      0, nullptr, event);
              });
  } else if (target->is_image()) {
    CopyThere(device, "copy buffer to image", "clEnqueueCopyBufferToImage", bytes, {from, to},
              [=, &api, region = Region(target->image)](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyBufferToImage(queue, from, to, source_offset, kOrigin, region.sides,
                                                      0, nullptr, event);
              });
  } else {
    CopyThere(device, "copy device to device", "clEnqueueCopyBuffer", bytes, {from, to},
              [=, &api](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyBuffer(queue, from, to, source_offset, target_offset, bytes, 0,
                                               nullptr, event);
              });
  }
}

namespace {

// What one enqueue of a rectangle copies: rows, and planes of rows where both sides allow it.
struct Rectangle {
  size_t region[3] = {0, 1, 1};
  // Row and plane pitch.
  size_t from_pitch[2] = {0, 0}, to_pitch[2] = {0, 0};
};

// Calls `copy(rectangle, from_offset, to_offset)`, offsets in bytes, until the layout is covered.
template <typename Copy>
void ForEachRectangle(const StridedLayout& layout, const Copy& copy) {
  Rectangle rectangle;
  rectangle.region[0] = layout.row_bytes;
  size_t inside = 0;
  const auto fits_planes = [&](size_t StridedAxis::* pitch) {
    const StridedAxis& rows = layout.axes[0];
    const size_t plane = layout.axes[1].*pitch;
    return plane >= rows.count * (rows.*pitch) && plane % (rows.*pitch) == 0;
  };
  if (!layout.axes.empty()) {
    inside =
        layout.axes.size() > 1 && fits_planes(&StridedAxis::from_pitch) && fits_planes(&StridedAxis::to_pitch)
            ? 2
            : 1;
  }
  for (size_t i = 0; i < inside; ++i) {
    rectangle.region[i + 1] = layout.axes[i].count;
    rectangle.from_pitch[i] = layout.axes[i].from_pitch;
    rectangle.to_pitch[i] = layout.axes[i].to_pitch;
  }
  // What is further out is counted through here.
  std::vector<size_t> index(layout.axes.size(), 0);
  for (;;) {
    size_t from_offset = 0, to_offset = 0;
    for (size_t i = inside; i < index.size(); ++i) {
      from_offset += index[i] * layout.axes[i].from_pitch;
      to_offset += index[i] * layout.axes[i].to_pitch;
    }
    copy(rectangle, from_offset, to_offset);
    size_t axis = inside;
    while (axis < index.size() && ++index[axis] == layout.axes[axis].count) index[axis++] = 0;
    if (axis == index.size()) return;
  }
}

void CopyRectangles(const StridedLayout& layout, const Memory* source, size_t source_offset,
                    const Memory* target, size_t target_offset) {
  Device& device = *source->device;
  const Api& api = device.api;
  const cl_mem from = source->handle, to = target->handle;
  ForEachRectangle(layout, [&](const Rectangle& rectangle, size_t from_offset, size_t to_offset) {
    CopyThere(device, "copy rows on device", "clEnqueueCopyBufferRect", layout.bytes(), {from, to},
              [=, &api](cl_command_queue queue, cl_event* event) {
                const size_t from_origin[3] = {source_offset + from_offset, 0, 0};
                const size_t to_origin[3] = {target_offset + to_offset, 0, 0};
                return api.clEnqueueCopyBufferRect(
                    queue, from, to, from_origin, to_origin, rectangle.region, rectangle.from_pitch[0],
                    rectangle.from_pitch[1], rectangle.to_pitch[0], rectangle.to_pitch[1], 0, nullptr, event);
              });
  });
}

void WriteRectangles(const StridedLayout& layout, const uint8_t* source, const Memory* target,
                     size_t target_offset) {
  Device& device = *target->device;
  ForEachRectangle(layout, [&](const Rectangle& rectangle, size_t from_offset, size_t to_offset) {
    const size_t origin[3] = {target_offset + to_offset, 0, 0};
    BlockingCopy(device, "copy rows to device", "clEnqueueWriteBufferRect", layout.bytes(),
                 [&](cl_command_queue queue, cl_event* event) {
                   return device.api.clEnqueueWriteBufferRect(
                       queue, target->handle, kBlocking, origin, kOrigin, rectangle.region,
                       rectangle.to_pitch[0], rectangle.to_pitch[1], rectangle.from_pitch[0],
                       rectangle.from_pitch[1], source + from_offset, 0, nullptr, event);
                 });
  });
}

void ReadRectangles(const StridedLayout& layout, const Memory* source, size_t source_offset,
                    uint8_t* target) {
  Device& device = *source->device;
  ForEachRectangle(layout, [&](const Rectangle& rectangle, size_t from_offset, size_t to_offset) {
    const size_t origin[3] = {source_offset + from_offset, 0, 0};
    BlockingCopy(device, "copy rows to host", "clEnqueueReadBufferRect", layout.bytes(),
                 [&](cl_command_queue queue, cl_event* event) {
                   return device.api.clEnqueueReadBufferRect(
                       queue, source->handle, kBlocking, origin, kOrigin, rectangle.region,
                       rectangle.from_pitch[0], rectangle.from_pitch[1], rectangle.to_pitch[0],
                       rectangle.to_pitch[1], target + to_offset, 0, nullptr, event);
                 });
  });
}

bool OnDevice(const DLTensor& tensor) {
  if (tensor.device.device_type == kDLOpenCL) return true;
  if (tensor.device.device_type == kDLCPU) return false;
  TVM_FFI_THROW(ValueError) << "OpenCL copies go between opencl and cpu tensors, not device type "
                            << static_cast<int>(tensor.device.device_type);
  TVM_FFI_UNREACHABLE();
}

uint8_t* OnHost(const DLTensor& tensor) {
  return static_cast<uint8_t*>(tensor.data) + tensor.byte_offset;
}

void CopyCompact(const DLTensor& from, const DLTensor& to, size_t bytes) {
  if (bytes == 0) return;
  if (OnDevice(from) && OnDevice(to)) {
    CopyOnDevice(Memory::FromHandle(from.data, "copy"), from.byte_offset, Memory::FromHandle(to.data, "copy"),
                 to.byte_offset, bytes);
  } else if (OnDevice(from)) {
    CopyToHost(Memory::FromHandle(from.data, "copy"), from.byte_offset, OnHost(to), bytes);
  } else {
    CopyToDevice(OnHost(from), Memory::FromHandle(to.data, "copy"), to.byte_offset, bytes);
  }
}

// Through a compact copy, for what OpenCL cannot do at once.
void CopyStaged(const DLTensor& from, const DLTensor& to, size_t bytes, Device* device) {
  DLTensor compact = from;
  compact.strides = nullptr;
  compact.byte_offset = 0;
  if (device != nullptr) {
    const std::unique_ptr<Memory, void (*)(Memory*)> staging(
        AllocateBuffer(*device, bytes, {MemoryKind::kWorkspace, true}), Free);
    compact.data = staging.get();
    compact.device = {kDLOpenCL, device->index};
    CopyTensor(from, compact);
    CopyTensor(compact, to);
  } else {
    std::vector<uint8_t> staging(bytes);
    compact.data = staging.data();
    compact.device = {kDLCPU, 0};
    CopyTensor(from, compact);
    CopyTensor(compact, to);
  }
}

void CheckSameShape(const DLTensor& from, const DLTensor& to) {
  bool same = from.ndim == to.ndim && from.dtype.code == to.dtype.code && from.dtype.bits == to.dtype.bits &&
              from.dtype.lanes == to.dtype.lanes;
  for (int axis = 0; same && axis < from.ndim; ++axis) same = from.shape[axis] == to.shape[axis];
  if (!same) {
    TVM_FFI_THROW(ValueError) << "OpenCL copies between tensors of other shapes or types need contiguous "
                                 "tensors; make a compact copy first";
  }
}

void CopyStrided(const DLTensor& from, const DLTensor& to) {
  CheckSameShape(from, to);
  const StridedLayout layout = CommonLayout(from, to);
  if (layout.empty()) return;
  Memory* source = OnDevice(from) ? Memory::FromHandle(from.data, "copy") : nullptr;
  Memory* target = OnDevice(to) ? Memory::FromHandle(to.data, "copy") : nullptr;
  const bool both = source != nullptr && target != nullptr;
  const bool image = (source != nullptr && source->is_image()) || (target != nullptr && target->is_image());
  if (both && source->device != target->device) return CopyStaged(from, to, layout.bytes(), nullptr);
  // OpenCL knows no pitch in a buffer beside an image, and refuses rows of one buffer that may overlap.
  if (image || (both && source == target)) {
    return CopyStaged(from, to, layout.bytes(), both ? source->device : nullptr);
  }
  if (source != nullptr) CheckRange(source, from.byte_offset, layout.from_extent(), "source");
  if (target != nullptr) CheckRange(target, to.byte_offset, layout.to_extent(), "target");
  if (both) return CopyRectangles(layout, source, from.byte_offset, target, to.byte_offset);
  if (source != nullptr) return ReadRectangles(layout, source, from.byte_offset, OnHost(to));
  if (target != nullptr) return WriteRectangles(layout, OnHost(from), target, to.byte_offset);
  CopyLayout(layout, OnHost(from), OnHost(to));
}

}  // namespace

void CopyTensor(const DLTensor& from, const DLTensor& to) {
  const size_t bytes = tvm::ffi::GetDataSize(from);
  if (bytes != tvm::ffi::GetDataSize(to)) {
    TVM_FFI_THROW(ValueError) << "OpenCL copy between tensors of " << bytes << " and "
                              << tvm::ffi::GetDataSize(to) << " bytes";
  }
  const bool compact = tvm::ffi::IsContiguous(from) && tvm::ffi::IsContiguous(to);
  if (compact && (OnDevice(from) || OnDevice(to))) return CopyCompact(from, to, bytes);
  CopyStrided(from, to);
}

}  // namespace ddimcache::opencl
