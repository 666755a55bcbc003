// Writes what a test asks for: "<width> <height> " and the pixels in, a PNG out.
#include <iostream>
#include <iterator>
#include <stdexcept>

#include "png.h"

int main() {
  uint32_t width = 0, height = 0;
  std::cin >> width >> height;
  std::cin.get();
  const std::vector<uint8_t> pixels((std::istreambuf_iterator<char>(std::cin)), {});
  try {
    std::cout << ddimcache::session::EncodePng(pixels, width, height);
  } catch (const std::invalid_argument& problem) {
    std::cerr << problem.what();
    return 1;
  }
}
