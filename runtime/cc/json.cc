#include "json.h"

#include <cstdint>
#include <cstdio>

namespace ddimcache::opencl {

std::string JsonString(std::string_view text) {
  std::string quoted = "\"";
  for (char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (character == '"' || character == '\\') {
      quoted += '\\';
      quoted += character;
    } else if (byte < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", byte);
      quoted += escape;
    } else {
      quoted += character;
    }
  }
  return quoted + '"';
}

JsonObject& JsonObject::Add(std::string_view key, double value) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%.9g", value);
  return AddRaw(key, digits);
}

JsonObject& JsonObject::AddRaw(std::string_view key, std::string_view json) {
  if (!body_.empty()) body_ += ", ";
  body_ += JsonString(key);
  body_ += ": ";
  body_ += json;
  return *this;
}

}  // namespace ddimcache::opencl
