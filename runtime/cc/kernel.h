// One kernel: its program on each device, and how TVM's arguments become a launch.
#pragma once

#include <tvm/ffi/function.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"
#include "function_info.h"

namespace ddimcache::opencl {

// How one value of a TVM call is passed to OpenCL.
enum class ArgumentKind { kBuffer, kInteger, kHalf, kFloat, kDouble };

struct Argument {
  ArgumentKind kind;
  uint32_t bytes;
};

// Where the launch extents sit behind the arguments.
struct LaunchLayout {
  // Index 0-2: blocks in x, y, z; 3-5: threads in x, y, z. In the order in which the extents are passed.
  std::vector<int> extents;
  uint32_t dimensions = 1;

  // Throws ValueError, naming the function, for a tag that OpenCL cannot honour.
  static LaunchLayout Parse(const FunctionInfoObj& info);
};

class Kernel {
 public:
  // Throws ValueError for argument types that no OpenCL kernel can take.
  Kernel(std::string name, std::string source, const FunctionInfoObj& info);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // Enqueues on the calling thread's current device, compiling for it first where that has not happened.
  void Launch(tvm::ffi::PackedArgs arguments);

  // Compiles for `device` if need be, and returns {"kernel", "work_group_size", "local_bytes",
  // "private_bytes"} as JSON.
  std::string Describe(Device& device);

 private:
  struct Built {
    cl_program program = nullptr;
    cl_kernel kernel = nullptr;
    size_t work_group_size = 0;
  };

  Built& Build(Device& device);
  void SetArguments(Device& device, cl_kernel kernel, tvm::ffi::PackedArgs arguments) const;
  void CheckWorkGroup(const Device& device, const Built& built, const size_t* local) const;
  std::string Subject(const Device& device) const;

  const std::string name_;
  const std::string source_;
  std::vector<Argument> arguments_;
  LaunchLayout layout_;

  // clSetKernelArg and the enqueue that uses the arguments must not interleave between threads.
  std::mutex mutex_;
  std::map<Device*, Built> built_;
};

}  // namespace ddimcache::opencl
