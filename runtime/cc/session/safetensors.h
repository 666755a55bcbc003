// Reading weights: a header that nobody vouches for, then plain bytes.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "manifest.h"

namespace ddimcache::session {

class SafetensorsFile {
 public:
  // Opens the file and checks its header: its length, its JSON, every dtype, shape and range, that the ranges
  // cover the data without gap or overlap, and that names, shapes and dtypes are those of the manifest.
  // Throws Failure of kind BundleError.
  SafetensorsFile(const std::filesystem::path& path, const std::vector<Weight>& expected);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  // Copies a tensor's bytes, as many as its shape makes. Throws Failure when the file has got shorter.
  void Read(const Weight& weight, void* target) const;

 private:
  [[noreturn]] void Refuse(const std::string& problem) const;
  void ReadAt(uint64_t offset, void* target, uint64_t bytes) const;
  void ReadHeader(const std::vector<Weight>& expected);

  const std::filesystem::path path_;
  int file_ = -1;
  // Where each tensor's bytes begin in the file.
  std::map<std::string, uint64_t> offsets_;
};

}  // namespace ddimcache::session
