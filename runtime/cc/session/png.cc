#include "png.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>

namespace ddimcache::session {
namespace {

std::string BigEndian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xFF);
  return bytes;
}

uint32_t Crc(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320U ^ value >> 1 : value >> 1;
      made[byte] = value;
    }
    return made;
  }();
  uint32_t sum = 0xFFFFFFFFU;
  for (const char letter : bytes) sum = table[(sum ^ static_cast<uint8_t>(letter)) & 0xFF] ^ sum >> 8;
  return ~sum;
}

std::string Chunk(const std::string& name, const std::string& data) {
  return BigEndian(static_cast<uint32_t>(data.size())) + name + data + BigEndian(Crc(name + data));
}

// A zlib stream of stored blocks.
std::string Stored(std::string_view data) {
  std::string stream = "\x78\x01";
  uint32_t low = 1, high = 0;
  for (const char letter : data) {
    low = (low + static_cast<uint8_t>(letter)) % 65521;
    high = (high + low) % 65521;
  }
  constexpr size_t kLongest = 65535;
  do {
    const std::string_view block = data.substr(0, kLongest);
    data.remove_prefix(block.size());
    const auto length = static_cast<uint32_t>(block.size());
    stream += static_cast<char>(data.empty());
    for (const uint32_t value : {length, ~length}) {
      stream += static_cast<char>(value & 0xFF);
      stream += static_cast<char>(value >> 8 & 0xFF);
    }
    stream += block;
  } while (!data.empty());
  return stream + BigEndian(high << 16 | low);
}

}  // namespace

std::string EncodePng(const std::vector<uint8_t>& pixels, uint32_t width, uint32_t height) {
  const size_t row = size_t{3} * width;
  if (row == 0 || height == 0 || width > INT32_MAX || height > INT32_MAX || pixels.size() != row * height) {
    throw std::invalid_argument("a picture of " + std::to_string(width) + " x " + std::to_string(height) +
                                " pixels does not have " + std::to_string(pixels.size()) + " bytes");
  }
  std::string lines;
  for (auto place = pixels.begin(); place != pixels.end(); place += static_cast<std::ptrdiff_t>(row)) {
    lines += '\0';  // no filter
    lines.append(place, place + static_cast<std::ptrdiff_t>(row));
  }
  // 8 bits a channel, red green blue, deflate, the one set of filters, not interlaced
  const std::string header = BigEndian(width) + BigEndian(height) + std::string("\x08\x02\0\0\0", 5);
  std::string data = Stored(lines);
  return "\x89PNG\r\n\x1A\n" + Chunk("IHDR", header) + Chunk("IDAT", data) + Chunk("IEND", "");
}

}  // namespace ddimcache::session
