// Stands between the plug-in and the OpenCL library, and counts the handles that are alive, by their type.
// The plug-in opens it by DDIMCACHE_OPENCL_LIBRARY and asks it for pointers the way Pixel phones want it.
#include <dlfcn.h>

#include <atomic>
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
    const Result result = real(arguments...);
    const std::string_view text = name;
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
