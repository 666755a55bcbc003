#include "build_process.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/error.h>
#include <tvm/runtime/device_api.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "build_socket.h"
#include "hazards.h"
#include "program.h"
#include "program_cache.h"

extern char** environ;

namespace ddimcache::opencl {
namespace {

constexpr const char* kInChildVariable = "DDIMCACHE_BUILD_IN_CHILD";
constexpr const char* kSecondsVariable = "DDIMCACHE_BUILD_SECONDS";
constexpr const char* kLibraryVariable = "DDIMCACHE_OPENCL_LIBRARY";
constexpr double kDefaultSeconds = 120;
// To load TVM and the driver.
constexpr double kStartSeconds = 60;
constexpr const char* kProgramName = "ddimcache_build_program";
constexpr int kChildSocket = 3;

double MostSeconds() {
  const char* text = std::getenv(kSecondsVariable);
  if (text == nullptr) return kDefaultSeconds;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  return end != text && *end == '\0' && seconds > 0 && seconds < 1e6 ? seconds : kDefaultSeconds;
}

// The file that holds a function or object of a loaded library.
std::string LibraryOf(const void* address) {
  Dl_info info;
  if (::dladdr(address, &info) == 0 || info.dli_fname == nullptr) return "";
  char* resolved = ::realpath(info.dli_fname, nullptr);
  const std::string path = resolved != nullptr ? resolved : info.dli_fname;
  std::free(resolved);
  return path;
}

std::string PluginPath() {
  static const char here = 0;
  return LibraryOf(&here);
}

std::string BuilderPath() {
  const std::string plugin = PluginPath();
  return plugin.substr(0, plugin.rfind('/') + 1) + kProgramName;
}

std::vector<std::string> Identity(const DeviceInfo& info) {
  return {info.name, info.driver_version, info.version, info.platform};
}

// A child and the socket to it.
class Builder {
 public:
  // Throws RuntimeError when it cannot be started, or sees another device than this process.
  explicit Builder(const Device& device) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) Fail("socketpair", errno);
    socket_ = ends[0];
    const int code = Spawn(device, ends[1]);
    ::close(ends[1]);
    if (code != 0) Fail(BuilderPath(), code);
    bool timed_out = false;
    const std::optional<std::string> hello = ReceiveMessage(socket_, kStartSeconds, &timed_out);
    if (!hello) {
      const std::string end = timed_out ? "it does not answer" : End();
      TVM_FFI_THROW(RuntimeError) << "cannot build in a child process: " << BuilderPath()
                                  << " did not start (" << end << "); what it said is on standard error. "
                                  << "Set " << kInChildVariable << "=0 to build without it";
    }
    if (SplitTexts(*hello, 4) != Identity(device.info)) {
      TVM_FFI_THROW(RuntimeError) << "cannot build in a child process: it does not find " << device.Describe()
                                  << " under the same index. Set " << kInChildVariable
                                  << "=0 to build without it";
    }
  }

  ~Builder() {
    ::close(socket_);
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      Wait();
    }
  }
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  // Whether it is still there. One that ended while it had nothing to do is no loss.
  bool Alive() const {
    pollfd entry{socket_, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 0;
  }

  // The answer to a request, or nothing and why the child cannot be used any more.
  std::optional<std::string> Ask(const std::string& request, double seconds, std::string* end) {
    bool timed_out = false;
    std::optional<std::string> answer;
    if (SendMessage(socket_, request)) answer = ReceiveMessage(socket_, seconds, &timed_out);
    if (!answer && timed_out) {
      *end = "took longer than " + std::to_string(static_cast<int64_t>(seconds)) + " s (" + kSecondsVariable +
             ")";
    } else if (!answer) {
      *end = "crashed (" + End() + ")";
    }
    return answer;
  }

 private:
  [[noreturn]] void Fail(const std::string& what, int code) {
    TVM_FFI_THROW(RuntimeError) << "cannot build in a child process: " << what << ": " << std::strerror(code)
                                << ". Install the package again, or set " << kInChildVariable
                                << "=0 to build without it";
    TVM_FFI_UNREACHABLE();
  }

  int Spawn(const Device& device, int child_end) {
    const std::string program = BuilderPath();
    std::vector<std::string> arguments = {
        program, std::to_string(device.index),
        LibraryOf(reinterpret_cast<const void*>(&TVMFFIErrorSetRaised)),
        LibraryOf(reinterpret_cast<const void*>(&tvm::runtime::DeviceAPI::Get)), PluginPath()};
    std::vector<std::string> variables;
    const std::string replaced = std::string(kLibraryVariable) + "=";
    for (char** variable = environ; *variable != nullptr; ++variable) {
      if (!std::string_view(*variable).starts_with(replaced)) variables.emplace_back(*variable);
    }
    variables.push_back(replaced + device.api.library);
    const auto pointers = [](std::vector<std::string>& texts) {
      std::vector<char*> list;
      for (std::string& text : texts) list.push_back(text.data());
      list.push_back(nullptr);
      return list;
    };
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    // Standard output belongs to the parent's results; what the driver prints goes to standard error.
    ::posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, child_end, kChildSocket);
    const int code = ::posix_spawn(&process_, program.c_str(), &actions, nullptr, pointers(arguments).data(),
                                   pointers(variables).data());
    ::posix_spawn_file_actions_destroy(&actions);
    if (code != 0) process_ = 0;
    return code;
  }

  // Waits for the child's end. Returns its status, or nothing when somebody else has collected it.
  std::optional<int> Wait() {
    int status = 0;
    pid_t answer = 0;
    do {
      answer = ::waitpid(process_, &status, 0);
    } while (answer < 0 && errno == EINTR);
    process_ = 0;
    return answer < 0 ? std::nullopt : std::optional(status);
  }

  std::string End() {
    const std::optional<int> status = Wait();
    if (!status) return "its process ended";
    if (WIFSIGNALED(*status)) {
      return "signal " + std::to_string(WTERMSIG(*status)) + ", " + ::strsignal(WTERMSIG(*status));
    }
    return "its process ended with status " + std::to_string(WEXITSTATUS(*status));
  }

  int socket_ = -1;
  pid_t process_ = 0;
};

// Builders that have nothing to do, by device. Never freed; the children end when this process does.
class Pool {
 public:
  std::unique_ptr<Builder> Take(const Device& device) {
    {
      std::lock_guard lock(mutex_);
      std::vector<std::unique_ptr<Builder>>& idle = idle_[&device];
      while (!idle.empty()) {
        std::unique_ptr<Builder> builder = std::move(idle.back());
        idle.pop_back();
        if (builder->Alive()) return builder;
      }
    }
    return std::make_unique<Builder>(device);
  }

  void GiveBack(const Device& device, std::unique_ptr<Builder> builder) {
    std::lock_guard lock(mutex_);
    idle_[&device].push_back(std::move(builder));
  }

  static Pool& Global() {
    static auto* const pool = new Pool();
    return *pool;
  }

 private:
  std::mutex mutex_;
  std::map<const Device*, std::vector<std::unique_ptr<Builder>>> idle_;
};

bool Exists(const std::string& path) {
  return ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

bool BuildsInChild(const Device& device) {
  const char* chosen = std::getenv(kInChildVariable);
  if (chosen != nullptr && std::strcmp(chosen, "0") == 0) return false;
  if (chosen != nullptr && *chosen != '\0') return true;
  if (device.info.hazards.Find(Avoidance::kBuildInChild) == nullptr) return false;
  // Not asked for, and better a build at some risk than none.
  static const bool there = [] {
    const bool found = Exists(BuilderPath());
    if (!found) Warn(BuilderPath() + " is missing: programs are built in this process");
    return found;
  }();
  return there;
}

std::string BuildInChild(const Device& device, const std::string& name, const std::string& options,
                         const std::string& source) {
  std::unique_ptr<Builder> builder = Pool::Global().Take(device);
  std::string end;
  std::optional<std::string> answer = builder->Ask(JoinTexts({name, options, source}), MostSeconds(), &end);
  if (!answer) {
    const std::string kept = KeepFailedSource(name, source);
    TVM_FFI_THROW(RuntimeError) << "the driver " << end << " when it built kernel \"" << name << "\" on "
                                << device.Describe() << " in a child process, with options \"" << options
                                << "\". Its source "
                                << (kept.empty() ? "could not be written to a file" : "is kept in " + kept)
                                << ": change the kernel's schedule, or use another driver";
  }
  Pool::Global().GiveBack(device, std::move(builder));
  if (answer->starts_with("b")) return answer->substr(1);
  TVM_FFI_THROW(RuntimeError) << (answer->empty() ? "the child process gives no reason" : answer->substr(1));
  TVM_FFI_UNREACHABLE();
}

int ServeBuilds(int descriptor, int device_index) {
  // A build that hangs must not outlive the parent.
  std::thread([descriptor] {
    pollfd entry{descriptor, POLLRDHUP, 0};
    while (::poll(&entry, 1, -1) < 0 && errno == EINTR) {
    }
    ::_exit(0);
  }).detach();
  Device& device = Device::At(device_index);
  if (!SendMessage(descriptor, JoinTexts(Identity(device.info)))) return 0;
  bool timed_out = false;
  while (const std::optional<std::string> request = ReceiveMessage(descriptor, -1, &timed_out)) {
    const std::optional<std::vector<std::string>> texts = SplitTexts(*request, 3);
    if (!texts) return 1;
    std::string answer;
    try {
      answer = "b" + BuildBinary(device, (*texts)[0], (*texts)[1], (*texts)[2]);
    } catch (const tvm::ffi::Error& error) {
      answer = "e" + error.message();
    }
    if (!SendMessage(descriptor, answer)) return 0;
  }
  return 0;
}

}  // namespace ddimcache::opencl
