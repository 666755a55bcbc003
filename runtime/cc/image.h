// Images: how TVM lays a tensor of many dimensions out in the two dimensions and layers of an image.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "opencl_types.h"

namespace ddimcache::opencl {

// An array of 2-d images with four channels a pixel. Width 0 stands for "no image".
struct ImageShape {
  size_t width = 0, height = 0, layers = 0;
  cl_uint channel_type = 0;
  size_t channel_bytes = 0;
  // OpenCL C: image2d_array_t, which TVM generates for every scope, or image2d_t, of one layer.
  bool is_array = true;

  size_t bytes() const { return width * height * layers * 4 * channel_bytes; }
  bool operator==(const ImageShape&) const = default;
};

// Whether the scope ("global.texture", "global.texture-weight", "global.texture-nhwc") means an image.
bool IsImageScope(const std::string& scope);

// The image for a tensor. The last dimension is the four channels; the scope says how many of the others make
// layers and rows: all but one of them for "texture", one for "texture-weight", two for "texture-nhwc"; of
// these the last counts rows and the ones before it layers. Throws ValueError for shapes, types and scopes
// that no image can have.
ImageShape FlattenToImage(const int64_t* shape, int dimensions, DLDataType type, const std::string& scope);

// As above, for sides that are known already. `type` is the type of one channel.
ImageShape MakeImageShape(size_t width, size_t height, size_t layers, DLDataType type);

}  // namespace ddimcache::opencl
