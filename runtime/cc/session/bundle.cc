#include "bundle.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <vector>

#include "session.h"
#include "sha256.h"

namespace ddimcache::session {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestManifest = uint64_t{64} << 20;
constexpr const char* kCopyAgain = "copy it again";

[[noreturn]] void Refuse(const fs::path& where, const std::string& problem, const std::string& remedy = "") {
  throw Failure("BundleError", problem, where.string(), remedy);
}

std::string ReadManifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (!fs::exists(path)) {
    Refuse(folder, std::string("has no ") + kManifestName + ", so it is no bundle");
  }
  if (error) Refuse(path, "cannot be read: " + error.message());
  if (size > kLargestManifest) Refuse(path, "is larger than any manifest");
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream.is_open() || stream.bad()) Refuse(path, "cannot be read");
  return text;
}

std::string SumOf(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  Sha256 sum;
  std::vector<char> buffer(1 << 20);
  while (stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || stream.gcount() > 0) {
    sum.Update(buffer.data(), static_cast<size_t>(stream.gcount()));
  }
  if (!stream.is_open() || stream.bad()) Refuse(path, "cannot be read");
  return sum.Finish();
}

// Whether `path` lies in `folder`, both without links.
bool IsInside(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

void CheckFile(const Bundle& bundle, const std::string& name, const FileEntry& expected, bool sums) {
  const fs::path path = bundle.path(name);
  std::error_code error;
  if (!IsInside(fs::weakly_canonical(path, error), fs::canonical(bundle.folder))) {
    Refuse(path, "is a link that leads out of the bundle");
  }
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) Refuse(path, "is in the manifest but not in the bundle", kCopyAgain);
  if (!fs::is_regular_file(status)) Refuse(path, "is not a file", kCompileAgain);
  const uint64_t size = fs::file_size(path, error);
  if (error) Refuse(path, "cannot be read: " + error.message());
  if (size != expected.bytes) {
    Refuse(path,
           "has " + std::to_string(size) + " bytes, the manifest says " + std::to_string(expected.bytes),
           kCopyAgain);
  }
  if (sums && SumOf(path) != expected.sha256) {
    Refuse(path, "its sha256 is not the manifest's: the file was altered", kCopyAgain);
  }
}

void CheckNothingElse(const Bundle& bundle) {
  std::vector<fs::path> surplus;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(bundle.folder)) {
    if (entry.is_directory()) continue;
    const std::string name = entry.path().lexically_relative(bundle.folder).generic_string();
    if (name != kManifestName && !bundle.manifest.files.count(name)) surplus.push_back(entry.path());
  }
  if (!surplus.empty()) {
    Refuse(*std::min_element(surplus.begin(), surplus.end()), "is not in the manifest", "remove it");
  }
}

}  // namespace

Bundle OpenBundle(const fs::path& folder, bool sums) {
  try {
    if (!fs::is_directory(folder)) {
      Refuse(folder, fs::exists(folder) ? "is not a folder" : "does not exist");
    }
    Bundle bundle{folder, ParseManifest(ReadManifest(folder), (folder / kManifestName).string())};
    for (const auto& [name, entry] : bundle.manifest.files) CheckFile(bundle, name, entry, sums);
    CheckNothingElse(bundle);
    return bundle;
  } catch (const fs::filesystem_error& error) {
    Refuse(folder, std::string("cannot be read: ") + error.code().message());
  }
}

}  // namespace ddimcache::session
