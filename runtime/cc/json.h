// Writing JSON: the little that the query functions need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ddimcache::opencl {

// The text as a JSON string with its quotes. Bytes above 0x7F pass as they are (driver strings are UTF-8).
std::string JsonString(std::string_view text);

// Builds {"key": value, …}; every Add* appends one pair.
class JsonObject {
 public:
  JsonObject& Add(std::string_view key, std::string_view text) { return AddRaw(key, JsonString(text)); }
  JsonObject& Add(std::string_view key, const char* text) { return Add(key, std::string_view(text)); }
  JsonObject& Add(std::string_view key, bool value) { return AddRaw(key, value ? "true" : "false"); }
  JsonObject& Add(std::string_view key, uint64_t value) { return AddRaw(key, std::to_string(value)); }
  JsonObject& Add(std::string_view key, double value);
  JsonObject& AddRaw(std::string_view key, std::string_view json);
  std::string Finish() const { return "{" + body_ + "}"; }

 private:
  std::string body_;
};

}  // namespace ddimcache::opencl
