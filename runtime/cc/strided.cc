#include "strided.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstring>

namespace ddimcache::opencl {
namespace {

// Strides in bytes; a tensor without strides is compact.
std::vector<size_t> PitchesOf(const DLTensor& tensor, size_t element) {
  std::vector<size_t> pitches(static_cast<size_t>(tensor.ndim));
  size_t compact = element;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    if (tensor.strides != nullptr && tensor.strides[axis] < 0 && tensor.shape[axis] > 1) {
      TVM_FFI_THROW(ValueError) << "OpenCL copies go forward, but axis " << axis << " has the stride "
                                << tensor.strides[axis] << ": make a compact copy first";
    }
    pitches[axis] = tensor.strides != nullptr ? static_cast<size_t>(tensor.strides[axis]) * element : compact;
    compact *= static_cast<size_t>(tensor.shape[axis]);
  }
  return pitches;
}

size_t Extent(const StridedLayout& layout, size_t StridedAxis::* pitch) {
  size_t bytes = layout.row_bytes;
  for (const StridedAxis& axis : layout.axes) bytes += (axis.count - 1) * axis.*pitch;
  return bytes;
}

// Sorted by pitch, every axis has to begin behind all that lies inside of it.
void CheckApart(const StridedLayout& layout, size_t StridedAxis::* pitch) {
  std::vector<StridedAxis> axes = layout.axes;
  std::sort(axes.begin(), axes.end(),
            [&](const StridedAxis& a, const StridedAxis& b) { return a.*pitch < b.*pitch; });
  size_t inside = layout.row_bytes;
  for (const StridedAxis& axis : axes) {
    if (axis.*pitch < inside) {
      TVM_FFI_THROW(ValueError) << "OpenCL copies need elements that do not overlap, but " << axis.count
                                << " stretches of " << inside << " bytes lie " << axis.*pitch
                                << " bytes apart: make a compact copy first";
    }
    inside += (axis.count - 1) * axis.*pitch;
  }
}

}  // namespace

size_t StridedLayout::bytes() const {
  size_t total = row_bytes;
  for (const StridedAxis& axis : axes) total *= axis.count;
  return total;
}

size_t StridedLayout::from_extent() const {
  return Extent(*this, &StridedAxis::from_pitch);
}

size_t StridedLayout::to_extent() const {
  return Extent(*this, &StridedAxis::to_pitch);
}

StridedLayout CommonLayout(const DLTensor& from, const DLTensor& to) {
  const size_t bits = static_cast<size_t>(from.dtype.bits) * from.dtype.lanes;
  if (bits % 8 != 0) {
    TVM_FFI_THROW(ValueError) << "OpenCL copies of tensors with " << bits
                              << " bits an element need contiguous tensors; make a compact copy first";
  }
  StridedLayout layout;
  for (int axis = 0; axis < from.ndim; ++axis) {
    if (from.shape[axis] == 0) return layout;
  }
  layout.row_bytes = bits / 8;
  const std::vector<size_t> from_pitches = PitchesOf(from, layout.row_bytes);
  const std::vector<size_t> to_pitches = PitchesOf(to, layout.row_bytes);
  for (int axis = from.ndim - 1; axis >= 0; --axis) {
    const StridedAxis next{static_cast<size_t>(from.shape[axis]), from_pitches[axis], to_pitches[axis]};
    if (next.count == 1) continue;
    if (layout.axes.empty() && next.from_pitch == layout.row_bytes && next.to_pitch == layout.row_bytes) {
      layout.row_bytes *= next.count;
      continue;
    }
    if (!layout.axes.empty()) {
      StridedAxis& inner = layout.axes.back();
      if (next.from_pitch == inner.count * inner.from_pitch &&
          next.to_pitch == inner.count * inner.to_pitch) {
        inner.count *= next.count;
        continue;
      }
    }
    layout.axes.push_back(next);
  }
  CheckApart(layout, &StridedAxis::from_pitch);
  CheckApart(layout, &StridedAxis::to_pitch);
  return layout;
}

void CopyLayout(const StridedLayout& layout, const uint8_t* from, uint8_t* to) {
  std::vector<size_t> index(layout.axes.size(), 0);
  for (;;) {
    std::memcpy(to, from, layout.row_bytes);
    size_t axis = 0;
    for (; axis < index.size(); ++axis) {
      const StridedAxis& along = layout.axes[axis];
      if (++index[axis] < along.count) {
        from += along.from_pitch;
        to += along.to_pitch;
        break;
      }
      from -= (along.count - 1) * along.from_pitch;
      to -= (along.count - 1) * along.to_pitch;
      index[axis] = 0;
    }
    if (axis == index.size()) return;
  }
}

}  // namespace ddimcache::opencl
