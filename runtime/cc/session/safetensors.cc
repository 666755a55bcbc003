#include "safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "json_reader.h"
#include "session.h"

namespace ddimcache::session {
namespace {

constexpr uint64_t kLargestHeader = 100'000'000;

struct Range {
  uint64_t begin, end;
};

const char* DtypeName(const std::string& code) {
  static constexpr struct {
    const char *code, *name;
  } kNames[] = {
      {"F32", "float32"}, {"F16", "float16"}, {"I32", "int32"}, {"I8", "int8"}, {"U8", "uint8"},
  };
  for (const auto& entry : kNames) {
    if (code == entry.code) return entry.name;
  }
  return nullptr;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path, const std::vector<Weight>& expected)
    : path_(path), file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (file_ < 0) Refuse(std::string("cannot be read: ") + std::strerror(errno));
  try {
    ReadHeader(expected);
  } catch (const JsonProblem& problem) {
    close(file_);
    Refuse(std::string("no safetensors file: ") + problem.what());
  } catch (...) {
    close(file_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  close(file_);
}

void SafetensorsFile::Refuse(const std::string& problem) const {
  throw Failure("BundleError", problem, path_.string(), kCompileAgain);
}

void SafetensorsFile::ReadAt(uint64_t offset, void* target, uint64_t bytes) const {
  auto* next = static_cast<char*>(target);
  while (bytes > 0) {
    // Linux reads at most 2 GiB at once.
    const ssize_t count = pread(file_, next, std::min<uint64_t>(bytes, 1 << 30), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) Refuse(std::string("cannot be read: ") + std::strerror(errno));
    if (count == 0) Refuse("became shorter while it was read");
    next += count, offset += static_cast<uint64_t>(count), bytes -= static_cast<uint64_t>(count);
  }
}

void SafetensorsFile::ReadHeader(const std::vector<Weight>& expected) {
  struct stat status = {};
  if (fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) Refuse("is not a file");
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size < 8)
    throw JsonProblem("", "it has " + std::to_string(size) + " bytes, its header's length takes 8");
  unsigned char bytes[8];
  ReadAt(0, bytes, sizeof(bytes));
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | bytes[i];
  if (length > kLargestHeader || length > size - 8) {
    throw JsonProblem(
        "", "a header of " + std::to_string(length) + " bytes in a file of " + std::to_string(size));
  }
  std::string header(length, '\0');
  ReadAt(8, header.data(), length);
  const uint64_t data = size - 8 - length;

  const Json json = Json::Parse(header);
  std::map<std::string, TensorSpec> specs;
  std::vector<Range> ranges;
  for (const auto& [name, place] : Place(json, "").Entries()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : place.Entries()) value.Text();
      continue;
    }
    const Fields fields = place.Object({"dtype", "shape", "data_offsets"});
    const char* dtype = DtypeName(fields["dtype"].Text());
    if (dtype == nullptr) fields["dtype"].Refuse("'" + fields["dtype"].Text() + "' is no type of a bundle");
    TensorSpec spec{{}, dtype};
    uint64_t tensor_bytes = ItemBytes(dtype);
    for (const Place& item : fields["shape"].Items()) {
      const int64_t extent = item.Integer(0);
      if (extent > 0 && tensor_bytes > data / static_cast<uint64_t>(extent)) {
        item.Refuse("makes a tensor larger than the file");
      }
      tensor_bytes *= static_cast<uint64_t>(extent);
      spec.shape.push_back(extent);
    }
    const auto ends = fields["data_offsets"].Items(2);
    const Range range{static_cast<uint64_t>(ends[0].Integer(0)), static_cast<uint64_t>(ends[1].Integer(0))};
    if (range.begin > range.end || range.end > data || range.end - range.begin != tensor_bytes) {
      fields["data_offsets"].Refuse("bytes " + std::to_string(range.begin) + " to " +
                                    std::to_string(range.end) + " of " + std::to_string(data) + " for " +
                                    spec.text());
    }
    offsets_[name] = 8 + length + range.begin;
    specs[name] = spec;
    ranges.push_back(range);
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return a.begin < b.begin || (a.begin == b.begin && a.end < b.end);
  });
  uint64_t covered = 0;
  for (const Range& range : ranges) {
    if (range.begin != covered) throw JsonProblem("", "the tensors do not lie end to end");
    covered = range.end;
  }
  if (covered != data) throw JsonProblem("", "bytes behind the last tensor");

  for (const auto& [name, spec] : specs) {
    const bool known = std::any_of(expected.begin(), expected.end(),
                                   [&name = name](const Weight& weight) { return weight.name == name; });
    if (!known) Refuse("weight '" + name + "' is not in the manifest");
  }
  for (const Weight& weight : expected) {
    const auto found = specs.find(weight.name);
    if (found == specs.end()) Refuse("weight '" + weight.name + "' is in the manifest but not in the file");
    if (found->second != weight.spec) {
      Refuse("weight '" + weight.name + "' is " + found->second.text() + ", the manifest says " +
             weight.spec.text());
    }
  }
}

void SafetensorsFile::Read(const Weight& weight, void* target) const {
  ReadAt(offsets_.at(weight.name), target, weight.spec.bytes());
}

}  // namespace ddimcache::session
