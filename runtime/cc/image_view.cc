#include "image_view.h"

#include <tvm/ffi/error.h>

#include <memory>
#include <optional>
#include <utility>

#include "copy.h"
#include "strided.h"

namespace ddimcache::opencl {
namespace {

using tvm::ffi::Tensor;

struct ImageAllocation {
  // Holds the memory that the image lies in, or null.
  std::optional<Tensor> storage;
  Memory* image;

  void AllocData(DLTensor* tensor) { tensor->data = image; }
  void FreeData(DLTensor*) { Free(image); }
};

ImageShape ShapeOf(const DLTensor& tensor) {
  if (tensor.ndim < 2) {
    TVM_FFI_THROW(ValueError) << "an image needs a tensor [..., width, 4], this one has " << tensor.ndim
                              << " dimensions";
  }
  // As for image scopes, with every axis before the last two among the rows.
  const int64_t rows_width_channels[3] = {1, tensor.shape[tensor.ndim - 2], tensor.shape[tensor.ndim - 1]};
  ImageShape shape = FlattenToImage(rows_width_channels, 3, tensor.dtype, "global.texture-weight");
  for (int axis = 0; axis + 2 < tensor.ndim; ++axis) shape.height *= static_cast<size_t>(tensor.shape[axis]);
  if (shape.height == 0) TVM_FFI_THROW(ValueError) << "OpenCL has no empty images";
  shape.is_array = false;
  return shape;
}

// Bytes from one row to the next, if they are evenly apart.
std::optional<size_t> RowPitch(const DLTensor& tensor, const ImageShape& shape) {
  const StridedLayout layout = CommonLayout(tensor, tensor);
  const size_t row = shape.width * 4 * shape.channel_bytes;
  if (layout.axes.empty()) return row;
  if (layout.axes.size() == 1 && layout.row_bytes == row) return layout.axes[0].from_pitch;
  return std::nullopt;
}

}  // namespace

Tensor ViewTensorAsImage(Tensor tensor) {
  const DLTensor& source = *tensor.GetDLTensorPtr();
  if (source.device.device_type != kDLOpenCL) {
    TVM_FFI_THROW(ValueError) << "an image is made of a tensor on an OpenCL device, not on device type "
                              << static_cast<int>(source.device.device_type);
  }
  Memory* buffer = Memory::FromHandle(source.data, "an image view");
  const ImageShape shape = ShapeOf(source);
  const std::optional<size_t> pitch = RowPitch(source, shape);
  ImageAllocation allocation{std::nullopt, nullptr};
  if (source.byte_offset == 0 && pitch && CanBeImage(*buffer, shape, *pitch)) {
    allocation = {tensor, ViewAsImage(*buffer, shape, *pitch)};
    return Tensor::FromNDAlloc(std::move(allocation), tensor.shape(), source.dtype, source.device);
  }
  allocation.image = AllocateImage(*buffer->device, shape);
  const Tensor image =
      Tensor::FromNDAlloc(std::move(allocation), tensor.shape(), source.dtype, source.device);
  CopyTensor(source, *image.GetDLTensorPtr());
  return image;
}

}  // namespace ddimcache::opencl
