// Stands between the plug-in and the OpenCL library, and counts the handles that are alive, by their type.
// With SHIM_MEMORY_BYTES it refuses buffers beyond so many bytes, as a device does whose memory others use
// too. The plug-in opens it by DDIMCACHE_OPENCL_LIBRARY and asks it for pointers the way Pixel phones want
// it.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <type_traits>

#include "opencl_types.h"

using namespace ddimcache::opencl;

namespace {

template <typename Handle>
std::atomic<long> alive{0};

void* Real(const char* name) {
  static void* const library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
  return library != nullptr ? dlsym(library, name) : nullptr;
}

// The buffers that are alive, none of them twice: the plug-in retains no buffer.
class Room {
 public:
  bool Take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (limit_ != 0 && used_ + bytes > limit_) return false;
    used_ += bytes;
    return true;
  }
  void Name(cl_mem buffer, size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (buffer == nullptr) {
      used_ -= bytes;
    } else {
      sizes_[buffer] = bytes;
    }
  }
  void GiveBack(cl_mem buffer) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(buffer);
    if (found == sizes_.end()) return;
    used_ -= found->second;
    sizes_.erase(found);
  }

 private:
  static uint64_t Limit() {
    const char* text = std::getenv("SHIM_MEMORY_BYTES");
    return text != nullptr ? std::strtoull(text, nullptr, 10) : 0;
  }

  std::mutex mutex_;
  const uint64_t limit_ = Limit();
  uint64_t used_ = 0;
  std::map<cl_mem, size_t> sizes_;
};

Room room;

template <typename Type>
constexpr bool kIsCounted = std::is_same_v<Type, cl_context> || std::is_same_v<Type, cl_command_queue> ||
                            std::is_same_v<Type, cl_mem> || std::is_same_v<Type, cl_program> ||
                            std::is_same_v<Type, cl_kernel> || std::is_same_v<Type, cl_event>;

template <typename Type>
void CountNewEvent(cl_int code, Type last) {
  if constexpr (std::is_same_v<Type, cl_event*>) {
    if (code == kSuccess && last != nullptr) ++alive<cl_event>;
  }
}

template <int function, typename Signature>
struct Counted;

template <int function, typename Result, typename... Arguments>
struct Counted<function, Result(Arguments...)> {
  static inline const char* name = nullptr;
  static inline Result (*real)(Arguments...) = nullptr;

  static Result Call(Arguments... arguments) {
    const std::string_view text = name;
    // clCreateBuffer alone has these parameters.
    if constexpr (std::is_same_v<Result(Arguments...),
                                 cl_mem(cl_context, cl_bitfield, size_t, void*, cl_int*)>) {
      return CreateBuffer(arguments...);
    }
    if constexpr (std::is_same_v<Result(Arguments...), cl_int(cl_mem)>) {
      if (text == "clReleaseMemObject") (room.GiveBack(arguments), ...);
    }
    const Result result = real(arguments...);
    if constexpr (kIsCounted<Result>) {
      if (result != nullptr) ++alive<Result>;
    } else if constexpr (sizeof...(Arguments) == 1 && (kIsCounted<Arguments> && ...)) {
      if (result == kSuccess && text.starts_with("clRelease")) (--alive<Arguments>, ...);
      if (result == kSuccess && text.starts_with("clRetain")) (++alive<Arguments>, ...);
    } else if constexpr (std::is_same_v<Result, cl_int>) {
      if (text.starts_with("clEnqueue")) CountNewEvent(result, (arguments, ...));
    }
    return result;
  }

  static cl_mem CreateBuffer(cl_context context, cl_bitfield flags, size_t bytes, void* host, cl_int* code) {
    if (!room.Take(bytes)) {
      *code = -4;
      return nullptr;
    }
    const cl_mem buffer = real(context, flags, bytes, host, code);
    room.Name(buffer, bytes);
    if (buffer != nullptr) ++alive<cl_mem>;
    return buffer;
  }
};

}  // namespace

extern "C" {

void enableOpenCL() {}

void* loadOpenCLPointer(const char* name) {
  const std::string_view wanted = name;
#define COUNT(function, result, parameters)                                              \
  if (wanted == #function) {                                                             \
    using Wrapper = Counted<__COUNTER__, result parameters>;                             \
    Wrapper::name = #function;                                                           \
    Wrapper::real = reinterpret_cast<result(*) parameters>(Real(#function));             \
    return Wrapper::real != nullptr ? reinterpret_cast<void*>(&Wrapper::Call) : nullptr; \
  }
  DDIMCACHE_CL_FUNCTIONS(COUNT)
#undef COUNT
  return Real(name);
}

long alive_handles(const char* kind) {
  const std::string_view wanted = kind;
  if (wanted == "context") return alive<cl_context>;
  if (wanted == "queue") return alive<cl_command_queue>;
  if (wanted == "memory") return alive<cl_mem>;
  if (wanted == "program") return alive<cl_program>;
  if (wanted == "kernel") return alive<cl_kernel>;
  if (wanted == "event") return alive<cl_event>;
  return -1;
}
}
