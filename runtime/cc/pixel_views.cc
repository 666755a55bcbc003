#include "pixel_views.h"

#include <tvm/ffi/error.h>

#include <string>

#include "device.h"
#include "memory.h"

namespace ddimcache::opencl {
namespace {

size_t ChannelBytes(cl_uint channel_type) {
  if (channel_type == kChannelSnormInt8) return 1;
  return channel_type == kChannelHalfFloat ? 2 : 4;
}

}  // namespace

cl_mem PixelViews::Over(Device& device, const Memory& buffer, cl_uint channel_type) {
  if (buffer.is_image()) {
    TVM_FFI_THROW(ValueError) << "a kernel on " << device.Describe()
                              << " reads a buffer as pixels, but was given an image";
  }
  const size_t pixels = buffer.bytes / (4 * ChannelBytes(channel_type));
  std::lock_guard lock(mutex_);
  std::vector<View>& views = views_[buffer.handle];
  for (const View& view : views) {
    if (view.channel_type == channel_type && view.pixels == pixels) return view.image;
  }
  if (!device.info.images || pixels == 0 || pixels > device.info.image_max_buffer_pixels) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL image over a buffer of " << buffer.bytes << " bytes has " << pixels
                                << " pixels; " << device.Describe() << " has images of 1 to "
                                << device.info.image_max_buffer_pixels
                                << " pixels (CL_DEVICE_IMAGE_MAX_BUFFER_SIZE): compile for another target";
  }
  const ImageFormat format{kChannelOrderRgba, channel_type};
  const ImageDescription description{kMemObjectImage1dBuffer, pixels, 0, 0, 0, 0, 0, 0, 0, buffer.handle};
  cl_int code = kSuccess;
  cl_mem image =
      device.api.clCreateImage(device.context(), kMemReadWrite, &format, &description, nullptr, &code);
  Check(code, "clCreateImage",
        "of " + std::to_string(pixels) + " pixels over a buffer of " + std::to_string(buffer.bytes) +
            " bytes on " + device.Describe());
  views.push_back({channel_type, pixels, image});
  return image;
}

std::vector<cl_mem> PixelViews::Forget(cl_mem buffer) {
  std::lock_guard lock(mutex_);
  std::vector<cl_mem> images;
  const auto found = views_.find(buffer);
  if (found == views_.end()) return images;
  for (const View& view : found->second) images.push_back(view.image);
  views_.erase(found);
  return images;
}

}  // namespace ddimcache::opencl
