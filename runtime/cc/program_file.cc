#include "program_file.h"

#include <cstdint>
#include <cstdio>
#include <utility>

namespace ddimcache::opencl {
namespace {

constexpr std::string_view kMagic = "DDIMPROG";
constexpr uint32_t kLayoutVersion = 1;
constexpr size_t kNumberBytes = sizeof(uint64_t);
constexpr size_t kFrameBytes = kMagic.size() + sizeof(uint32_t) + 3 * kNumberBytes;
constexpr std::string_view kSuffix = ".program";

template <typename Iterator>
uint64_t Fnv1a(Iterator begin, Iterator end) {
  uint64_t hash = 0xCBF29CE484222325;
  for (; begin != end; ++begin) {
    hash ^= static_cast<unsigned char>(*begin);
    hash *= 0x100000001B3;
  }
  return hash;
}

template <typename Integer>
void AppendNumber(std::string* text, Integer value) {
  for (size_t i = 0; i < sizeof(Integer); ++i) text->push_back(static_cast<char>((value >> (8 * i)) & 0xFF));
}

void AppendText(std::string* text, std::string_view part) {
  AppendNumber<uint64_t>(text, part.size());
  text->append(part);
}

// Takes a number off the front of `rest`; false when it is too short.
template <typename Integer>
bool TakeNumber(std::string_view* rest, Integer* value) {
  if (rest->size() < sizeof(Integer)) return false;
  *value = 0;
  for (size_t i = 0; i < sizeof(Integer); ++i) {
    *value |= static_cast<Integer>(static_cast<unsigned char>((*rest)[i])) << (8 * i);
  }
  rest->remove_prefix(sizeof(Integer));
  return true;
}

bool TakeText(std::string_view* rest, std::string_view* text) {
  uint64_t length = 0;
  if (!TakeNumber(rest, &length) || length > rest->size()) return false;
  *text = rest->substr(0, length);
  rest->remove_prefix(length);
  return true;
}

}  // namespace

std::string ProgramKey(const DeviceInfo& device, const std::string& options, const std::string& source) {
  const std::pair<const char*, const std::string&> facts[] = {
      {"device", device.name},
      {"driver version", device.driver_version},
      {"device version", device.version},
      {"platform", device.platform},
      {"platform version", device.platform_version},
      {"options", options},
      {"source", source},
  };
  std::string key = "layout " + std::to_string(kLayoutVersion) + "\n";
  for (const auto& [name, text] : facts) {
    key += std::string(name) + " " + std::to_string(text.size()) + "\n" + text + "\n";
  }
  return key;
}

// The second half reads the key backwards, so that the two share no more than the text.
std::string ProgramFileName(std::string_view key) {
  char digits[33];
  std::snprintf(digits, sizeof(digits), "%016llx%016llx",
                static_cast<unsigned long long>(Fnv1a(key.begin(), key.end())),
                static_cast<unsigned long long>(Fnv1a(key.rbegin(), key.rend())));
  return digits + std::string(kSuffix);
}

bool IsProgramFileName(std::string_view name) {
  return name.size() == 32 + kSuffix.size() && name.ends_with(kSuffix) &&
         name.find_first_not_of("0123456789abcdef") == 32;
}

std::string EncodeProgram(std::string_view key, std::string_view binary) {
  std::string file(kMagic);
  file.reserve(kFrameBytes + key.size() + binary.size());
  AppendNumber(&file, kLayoutVersion);
  AppendText(&file, key);
  AppendText(&file, binary);
  AppendNumber(&file, Fnv1a(file.begin(), file.end()));
  return file;
}

std::optional<std::string> DecodeProgram(std::string_view file, std::string_view key) {
  if (file.size() < kFrameBytes) return std::nullopt;
  std::string_view rest = file.substr(0, file.size() - kNumberBytes), sum = file.substr(rest.size());
  uint64_t checksum = 0;
  TakeNumber(&sum, &checksum);
  if (checksum != Fnv1a(rest.begin(), rest.end()) || !rest.starts_with(kMagic)) return std::nullopt;
  rest.remove_prefix(kMagic.size());
  uint32_t version = 0;
  std::string_view kept_key, binary;
  if (!TakeNumber(&rest, &version) || version != kLayoutVersion || !TakeText(&rest, &kept_key) ||
      kept_key != key || !TakeText(&rest, &binary) || !rest.empty() || binary.empty()) {
    return std::nullopt;
  }
  return std::string(binary);
}

}  // namespace ddimcache::opencl
