// Writes pictures as PNG files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "session.h"

namespace ddimcache::session {

// Bytes of a PNG of `pixels` [height, width, 3]. Stored, not compressed: the caller's disk is not what is
// scarce. Throws std::invalid_argument where the sides are not those of the pixels.
DDIMCACHE_EXPORT std::string EncodePng(const std::vector<uint8_t>& pixels, uint32_t width, uint32_t height);

}  // namespace ddimcache::session
