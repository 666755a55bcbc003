#include "image.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

namespace ddimcache::opencl {
namespace {

// No device comes near it, and three sides of it with their channels do not overflow.
constexpr int64_t kLongestSide = int64_t{1} << 19;

cl_uint ChannelType(DLDataType type) {
  if (type.code == kDLFloat && type.bits == 16) return kChannelHalfFloat;
  if (type.code == kDLFloat && type.bits == 32) return kChannelFloat;
  if (type.code == kDLInt && type.bits == 8) return kChannelSignedInt8;
  if (type.code == kDLInt && type.bits == 16) return kChannelSignedInt16;
  if (type.code == kDLInt && type.bits == 32) return kChannelSignedInt32;
  if (type.code == kDLUInt && type.bits == 8) return kChannelUnsignedInt8;
  if (type.code == kDLUInt && type.bits == 16) return kChannelUnsignedInt16;
  if (type.code == kDLUInt && type.bits == 32) return kChannelUnsignedInt32;
  // Before the message: this throws for unknown types, and inside the message that would end the process.
  const std::string name = tvm::ffi::DLDataTypeToString(type);
  TVM_FFI_THROW(ValueError) << "OpenCL images have no channels of type " << name;
  TVM_FFI_UNREACHABLE();
}

}  // namespace

bool IsImageScope(const std::string& scope) {
  return scope.find("texture") != std::string::npos;
}

ImageShape MakeImageShape(size_t width, size_t height, size_t layers, DLDataType type) {
  return {width, height, layers, ChannelType(type), type.bits / 8u};
}

ImageShape FlattenToImage(const int64_t* shape, int dimensions, DLDataType type, const std::string& scope) {
  int outer = 0;
  if (scope == "global.texture") {
    outer = dimensions - 2;
  } else if (scope == "global.texture-weight") {
    outer = 1;
  } else if (scope == "global.texture-nhwc") {
    outer = 2;
  } else {
    TVM_FFI_THROW(ValueError) << "OpenCL has no memory scope \"" << scope << "\"";
  }
  if (outer < 1 || outer >= dimensions) {
    TVM_FFI_THROW(ValueError) << "a tensor of " << dimensions << " dimensions does not fit the image scope \""
                              << scope << "\"";
  }
  if (shape[dimensions - 1] * type.lanes != 4) {
    TVM_FFI_THROW(ValueError) << "an image holds four channels, but the last dimension of the tensor is "
                              << shape[dimensions - 1];
  }
  int64_t layers = 1, height = 1, width = 1;
  for (int axis = 0; axis + 1 < dimensions; ++axis) {
    if (shape[axis] < 1) TVM_FFI_THROW(ValueError) << "OpenCL has no empty images";
    int64_t& side = axis < outer - 1 ? layers : axis < outer ? height : width;
    if (shape[axis] > kLongestSide / side) {
      TVM_FFI_THROW(ValueError) << "a tensor with " << shape[axis] << " entries along axis " << axis
                                << " is too large for any image: keep it in a buffer";
    }
    side *= shape[axis];
  }
  DLDataType channel = type;
  channel.lanes = 1;
  return MakeImageShape(static_cast<size_t>(width), static_cast<size_t>(height), static_cast<size_t>(layers),
                        channel);
}

}  // namespace ddimcache::opencl
