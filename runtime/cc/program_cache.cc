#include "program_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "hazards.h"
#include "json.h"
#include "program.h"
#include "program_file.h"

namespace ddimcache::opencl {
namespace {

constexpr std::string_view kTemporaryPrefix = ".writing-";
constexpr uint64_t kDefaultMostBytes = uint64_t{256} << 20;
// No program is that large; a file that is was not written here, and is not read into memory.
constexpr uint64_t kMostFileBytes = uint64_t{64} << 20;
constexpr uint64_t kWritesBetweenListings = 64;

// Counts for a summary; nothing is decided by them.
std::atomic<uint64_t> hits{0}, misses{0};

// Why the last program could not be kept; empty when it could.
std::string& WriteProblem() {
  static auto* const problem = new std::string();
  return *problem;
}

std::mutex& WriteProblemMutex() {
  static auto* const mutex = new std::mutex();
  return *mutex;
}

// Tells the first failure of each kind, because every start of the program is slow from then on.
void TellWriteProblem(const std::string& folder, int code) {
  const std::string problem = folder + ": " + std::strerror(code);
  std::lock_guard lock(WriteProblemMutex());
  if (WriteProblem() == problem) return;
  WriteProblem() = problem;
  Warn("compiled programs cannot be kept, so every start compiles them again: " + problem +
       ". Free space or set DDIMCACHE_CACHE to another folder; DDIMCACHE_PROGRAM_CACHE=0 turns this off");
}

void ForgetWriteProblem() {
  std::lock_guard lock(WriteProblemMutex());
  WriteProblem().clear();
}

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

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  explicit operator bool() const { return number_ >= 0; }
  int number() const { return number_; }

 private:
  const int number_;
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

// Creates a file with a lock on it, which says that its writer lives: the system takes it away from one that
// does not. Until the lock is there the folder is locked, so that nobody takes the file for abandoned.
int CreateTemporary(const std::string& folder, std::string* path) {
  const Descriptor place(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (place) ::flock(place.number(), LOCK_SH);
  const int file = ::mkostemp(path->data(), O_CLOEXEC);
  const int problem = errno;
  if (file >= 0) ::flock(file, LOCK_EX | LOCK_NB);
  errno = problem;
  return file;
}

// Writes a whole file under its name, or nothing of it. Returns 0 or what errno said.
int WriteFile(const std::string& folder, const std::string& name, std::string_view content) {
  std::string temporary = folder + "/" + std::string(kTemporaryPrefix) + "XXXXXX";
  const Descriptor file(CreateTemporary(folder, &temporary));
  if (!file) return errno;
  errno = 0;
  if (WriteAll(file, content) && ::fsync(file.number()) == 0 &&
      ::rename(temporary.c_str(), (folder + "/" + name).c_str()) == 0) {
    return 0;
  }
  const int problem = errno != 0 ? errno : EIO;
  ::unlink(temporary.c_str());
  return problem;
}

// Whether the writer of a temporary file is gone; for the one who has locked the folder.
bool IsAbandoned(int folder, const std::string& name) {
  const Descriptor file(::openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  return file && ::flock(file.number(), LOCK_EX | LOCK_NB) == 0;
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
  // Where files are being created this moment, what is abandoned waits for the next time.
  const bool locked = ::flock(::dirfd(listing), LOCK_EX | LOCK_NB) == 0;
  std::vector<Entry> entries;
  uint64_t total = 0;
  while (const dirent* item = ::readdir(listing)) {
    const std::string name = item->d_name;
    const bool temporary = name.starts_with(kTemporaryPrefix);
    struct stat status;
    if ((!temporary && !IsProgramFileName(name)) ||
        ::fstatat(::dirfd(listing), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        S_ISDIR(status.st_mode)) {
      continue;
    }
    if (temporary) {
      if (locked && IsAbandoned(::dirfd(listing), name)) ::unlink((folder + "/" + name).c_str());
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

std::optional<std::string> FindProgram(const std::string& key) {
  const std::string folder = Folder();
  if (folder.empty()) return std::nullopt;
  // Not blocking: a pipe of that name would hold us up.
  const std::string path = folder + "/" + ProgramFileName(key);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return std::nullopt;
  const std::optional<std::string> content = ReadAll(file);
  if (!content) return std::nullopt;
  std::optional<std::string> binary = DecodeProgram(*content, key);
  if (binary) ::futimens(file.number(), nullptr);
  return binary;
}

void KeepProgram(const std::string& key, const std::string& binary) {
  const std::string folder = Folder();
  const uint64_t most_bytes = MostBytes();
  if (folder.empty() || binary.empty()) return;
  const std::string content = EncodeProgram(key, binary);
  if (content.size() > std::min(most_bytes, kMostFileBytes)) return;
  const std::string name = ProgramFileName(key);
  int problem = ENOENT;
  // Twice: somebody may remove the folder.
  for (int attempt = 0; attempt < 2 && problem == ENOENT; ++attempt) {
    CreateFolder(folder);
    problem = WriteFile(folder, name, content);
  }
  if (problem != 0) {
    TellWriteProblem(folder, problem);
    return;
  }
  ForgetWriteProblem();
  HoldToBound(folder, name, content.size(), most_bytes);
}

std::string KeepFailedSource(const std::string& name, const std::string& source) {
  std::string file_name;
  for (const char character : name.substr(0, 100)) {
    const bool safe = std::isalnum(static_cast<unsigned char>(character)) != 0 || character == '_';
    file_name += safe ? character : '_';
  }
  file_name += ".cl";
  const std::string programs = Folder();
  if (!programs.empty()) {
    const std::string folder = programs + "/failed";
    CreateFolder(folder);
    if (WriteFile(folder, file_name, source) == 0) return folder + "/" + file_name;
  }
  const std::string chosen = Variable("TMPDIR");
  std::string path = (chosen.empty() ? "/tmp" : chosen) + "/ddimcache-XXXXXX-" + file_name;
  const Descriptor file(::mkostemps(path.data(), static_cast<int>(file_name.size()) + 1, O_CLOEXEC));
  return file && WriteAll(file, source) ? path : "";
}

void CountProgramHit() {
  hits.fetch_add(1);
}

void CountProgramMiss() {
  misses.fetch_add(1);
}

std::string ProgramCacheJson() {
  const std::string folder = Folder();
  std::lock_guard lock(WriteProblemMutex());
  return JsonObject()
      .AddRaw("folder", folder.empty() ? "null" : JsonString(folder))
      .Add("hits", hits.load())
      .Add("misses", misses.load())
      .Add("waiting", WaitingPrograms())
      .AddRaw("problem", WriteProblem().empty() ? "null" : JsonString(WriteProblem()))
      .Finish();
}

}  // namespace ddimcache::opencl
