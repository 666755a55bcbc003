// One kernel: its program on each device, and how TVM's arguments become a launch.
#pragma once

#include <tvm/ffi/function.h>

#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "argument.h"
#include "device.h"
#include "function_info.h"

namespace ddimcache::opencl {

// Where the launch extents sit behind the arguments.
struct LaunchLayout {
  // Index 0-2: blocks in x, y, z; 3-5: threads in x, y, z. In the order in which the extents are passed.
  std::vector<int> extents;
  uint32_t dimensions = 1;

  // Throws ValueError, naming the function, for a tag that OpenCL cannot honour.
  static LaunchLayout Parse(const FunctionInfoObj& info);
};

class Recording;

class Kernel {
 public:
  // Throws ValueError for argument types that no OpenCL kernel can take.
  Kernel(std::string name, std::string source, const FunctionInfoObj& info);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // Enqueues on the calling thread's current device, compiling for it first where that has not happened. Adds
  // the launch to the recording that the thread makes instead, where it makes one.
  void Launch(tvm::ffi::PackedArgs arguments);

  // Compiles for `device`, if that has not happened. Throws what a launch would.
  void Prepare(Device& device);

  // As Prepare. Bytes of registers that a work-item keeps in memory; 0 where the device does not tell.
  uint64_t SpilledBytes(Device& device);

  // As Prepare, and returns {"kernel", "work_group_size", "local_bytes",
  // "private_bytes"} as JSON.
  std::string Describe(Device& device);

 private:
  // The kernel on one device. Its kernel objects take turns: arguments are state, so each launch has one for
  // itself until it is enqueued. There are as many as threads ever launched at once.
  struct Built {
    std::mutex mutex;
    cl_program program = nullptr;
    size_t work_group_size = 0;
    std::vector<cl_kernel> idle;
  };

  // Takes a kernel object, compiling first where that has not happened, and gives it back at the end.
  class Lease {
   public:
    Lease(const Kernel& owner, Device& device, Built& built);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    cl_kernel kernel() const { return kernel_; }

   private:
    Built& built_;
    cl_kernel kernel_ = nullptr;
  };

  // What a launch was called with.
  struct Extents {
    size_t global[3], local[3];
    bool empty;
  };

  Built& On(Device& device);
  // Compiles, once; `built.mutex` is held.
  void Build(Device& device, Built& built) const;
  cl_kernel MakeKernel(const Device& device, cl_program program) const;
  Extents ReadExtents(tvm::ffi::PackedArgs arguments) const;
  // `memory`, where given, gets the buffers.
  void SetArguments(const Device& device, cl_kernel kernel, tvm::ffi::PackedArgs arguments,
                    std::vector<cl_mem>* memory) const;
  void CheckWorkGroup(const Device& device, size_t kernel_limit, const size_t* local) const;
  void Record(Recording& recording, Device& device, cl_program program, const Extents& extents,
              tvm::ffi::PackedArgs arguments) const;
  std::string Subject(const Device& device) const;

  const std::shared_ptr<const KernelSignature> signature_;
  const std::string source_;
  const LaunchLayout layout_;

  // Guards the map alone; an entry stays where it is.
  std::shared_mutex mutex_;
  std::map<Device*, Built> built_;
};

}  // namespace ddimcache::opencl
