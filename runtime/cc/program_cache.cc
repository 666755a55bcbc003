#include "program_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace ddimcache::opencl {
namespace {

constexpr std::string_view kMagic = "DDIMPROG";
constexpr uint32_t kLayoutVersion = 1;
constexpr size_t kNumberBytes = sizeof(uint64_t);
constexpr size_t kFrameBytes = kMagic.size() + sizeof(uint32_t) + 3 * kNumberBytes;
constexpr std::string_view kSuffix = ".program";
constexpr std::string_view kTemporaryPrefix = ".writing-";
constexpr uint64_t kDefaultMostBytes = uint64_t{256} << 20;
// No program is that large; a file that is was not written here, and is not read into memory.
constexpr uint64_t kMostFileBytes = uint64_t{64} << 20;
constexpr time_t kTemporaryLifeSeconds = 3600;
constexpr uint64_t kWritesBetweenListings = 64;

std::atomic<uint64_t> hits{0}, misses{0};

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Empty when the cache is off.
std::string Folder() {
  if (Variable("DDIMCACHE_PROGRAM_CACHE") == "0") return "";
  const std::string home = Variable("HOME");
  std::string chosen = Variable("DDIMCACHE_CACHE");
  if (chosen == "~" || chosen.starts_with("~/")) {
    if (home.empty()) return "";
    chosen.replace(0, 1, home);
  }
  if (!chosen.empty()) return chosen + "/programs";
  // The specification of that variable has relative paths ignored.
  const std::string user_cache = Variable("XDG_CACHE_HOME");
  if (user_cache.starts_with('/')) return user_cache + "/ddimcache/programs";
  return home.empty() ? "" : home + "/.cache/ddimcache/programs";
}

uint64_t MostBytes() {
  const std::string text = Variable("DDIMCACHE_PROGRAM_CACHE_BYTES");
  uint64_t bytes = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  const bool whole = !text.empty() && end == text.data() + text.size();
  return whole && problem == std::errc() ? bytes : kDefaultMostBytes;
}

template <typename Iterator>
uint64_t Fnv1a(Iterator begin, Iterator end) {
  uint64_t hash = 0xCBF29CE484222325;
  for (; begin != end; ++begin) {
    hash ^= static_cast<unsigned char>(*begin);
    hash *= 0x100000001B3;
  }
  return hash;
}

// The second half reads the key backwards, so that the two share no more than the text.
std::string FileName(std::string_view key) {
  char digits[33];
  std::snprintf(digits, sizeof(digits), "%016llx%016llx",
                static_cast<unsigned long long>(Fnv1a(key.begin(), key.end())),
                static_cast<unsigned long long>(Fnv1a(key.rbegin(), key.rend())));
  return digits + std::string(kSuffix);
}

bool IsFileName(std::string_view name) {
  return name.size() == 32 + kSuffix.size() && name.ends_with(kSuffix) &&
         name.find_first_not_of("0123456789abcdef") == 32;
}

template <typename Integer>
void AppendNumber(std::string* text, Integer value) {
  for (size_t i = 0; i < sizeof(Integer); ++i) text->push_back(static_cast<char>((value >> (8 * i)) & 0xFF));
}

void AppendText(std::string* text, std::string_view part) {
  AppendNumber<uint64_t>(text, part.size());
  text->append(part);
}

std::string Encode(std::string_view key, std::string_view binary) {
  std::string file(kMagic);
  file.reserve(kFrameBytes + key.size() + binary.size());
  AppendNumber(&file, kLayoutVersion);
  AppendText(&file, key);
  AppendText(&file, binary);
  AppendNumber(&file, Fnv1a(file.begin(), file.end()));
  return file;
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

// The binary in a file of exactly this key.
std::optional<std::string> Decode(std::string_view file, std::string_view key) {
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

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  explicit operator bool() const { return number_ >= 0; }
  int number() const { return number_; }

  // Whether everything that was written has arrived, as far as closing tells.
  bool Close() { return number_ < 0 || ::close(std::exchange(number_, -1)) == 0; }

 private:
  int number_;
};

// The content of a regular file of a sensible size.
std::optional<std::string> ReadAll(const Descriptor& file) {
  struct stat status;
  if (::fstat(file.number(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  if (status.st_size < 0 || static_cast<uint64_t>(status.st_size) > kMostFileBytes) return std::nullopt;
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = ::read(file.number(), text.data() + have, text.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::nullopt;
    have += static_cast<size_t>(got);
  }
  return text;
}

bool WriteAll(const Descriptor& file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = ::write(file.number(), text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    text.remove_prefix(static_cast<size_t>(put));
  }
  return true;
}

// Creates the folder and those above it. What fails here shows when the file is created.
void CreateFolder(const std::string& folder) {
  if (::access(folder.c_str(), F_OK) == 0) return;
  for (size_t slash = folder.find('/', 1); slash != std::string::npos; slash = folder.find('/', slash + 1)) {
    ::mkdir(folder.substr(0, slash).c_str(), 0700);
  }
  ::mkdir(folder.c_str(), 0700);
}

bool WriteFile(const std::string& folder, const std::string& name, std::string_view content) {
  std::string temporary = folder + "/" + std::string(kTemporaryPrefix) + "XXXXXX";
  Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file) return false;
  const bool arrived = WriteAll(file, content) && ::fsync(file.number()) == 0 && file.Close();
  if (arrived && ::rename(temporary.c_str(), (folder + "/" + name).c_str()) == 0) return true;
  ::unlink(temporary.c_str());
  return false;
}

// Removes what was used least recently until the folder is well within its bound, but not `newest`, and what
// killed writers left. Returns the bytes that remain.
uint64_t Prune(const std::string& folder, uint64_t most_bytes, const std::string& newest) {
  struct Entry {
    std::pair<time_t, long> used;
    uint64_t bytes;
    std::string name;
  };
  DIR* listing = ::opendir(folder.c_str());
  if (listing == nullptr) return 0;
  const time_t now = std::time(nullptr);
  std::vector<Entry> entries;
  uint64_t total = 0;
  while (const dirent* item = ::readdir(listing)) {
    const std::string name = item->d_name;
    const bool temporary = name.starts_with(kTemporaryPrefix);
    struct stat status;
    if ((!temporary && !IsFileName(name)) ||
        ::fstatat(::dirfd(listing), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        S_ISDIR(status.st_mode)) {
      continue;
    }
    if (temporary) {
      if (now - status.st_mtim.tv_sec > kTemporaryLifeSeconds) ::unlink((folder + "/" + name).c_str());
      continue;
    }
    const auto bytes = static_cast<uint64_t>(status.st_size);
    total += bytes;
    entries.push_back({{status.st_mtim.tv_sec, status.st_mtim.tv_nsec}, bytes, name});
  }
  ::closedir(listing);
  if (total <= most_bytes) return total;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= most_bytes - most_bytes / 8) break;
    if (entry.name == newest) continue;
    const std::string path = folder + "/" + entry.name;
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) total -= entry.bytes;
  }
  return total;
}

// Called after a write. Lists the folder only when it may have to be pruned.
void HoldToBound(const std::string& folder, const std::string& name, uint64_t bytes, uint64_t most_bytes) {
  static auto* const mutex = new std::mutex();
  static auto* const known_folder = new std::string();
  static uint64_t known_bytes = 0, writes = 0;
  std::lock_guard lock(*mutex);
  known_bytes += bytes;
  const bool listed_lately = *known_folder == folder && ++writes % kWritesBetweenListings != 0;
  if (listed_lately && known_bytes <= most_bytes) return;
  *known_folder = folder;
  known_bytes = Prune(folder, most_bytes, name);
}

}  // namespace

bool ProgramCacheIsOn() {
  return !Folder().empty();
}

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

std::optional<std::string> FindProgram(const std::string& key) {
  const std::string folder = Folder();
  if (folder.empty()) return std::nullopt;
  // Not blocking: a pipe of that name would hold us up.
  const std::string path = folder + "/" + FileName(key);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return std::nullopt;
  const std::optional<std::string> content = ReadAll(file);
  if (!content) return std::nullopt;
  std::optional<std::string> binary = Decode(*content, key);
  if (binary) ::futimens(file.number(), nullptr);
  return binary;
}

void KeepProgram(const std::string& key, const std::string& binary) {
  const std::string folder = Folder();
  const uint64_t most_bytes = MostBytes();
  const uint64_t bytes = kFrameBytes + key.size() + binary.size();
  if (folder.empty() || binary.empty() || bytes > std::min(most_bytes, kMostFileBytes)) return;
  const std::string name = FileName(key);
  CreateFolder(folder);
  if (WriteFile(folder, name, Encode(key, binary))) HoldToBound(folder, name, bytes, most_bytes);
}

void CountProgramHit() {
  hits.fetch_add(1);
}

void CountProgramMiss() {
  misses.fetch_add(1);
}

std::string ProgramCacheJson() {
  const std::string folder = Folder();
  return JsonObject()
      .AddRaw("folder", folder.empty() ? "null" : JsonString(folder))
      .Add("hits", hits.load())
      .Add("misses", misses.load())
      .Finish();
}

}  // namespace ddimcache::opencl
