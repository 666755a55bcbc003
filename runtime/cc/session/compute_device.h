// The device that a session works on: an OpenCL device, or this machine's CPU.
#pragma once

#include <dlpack/dlpack.h>

#include <cstdint>
#include <string>

#include "../device.h"

namespace ddimcache::session {

class ComputeDevice {
 public:
  // `text` is "opencl", "opencl:1" or "llvm", or empty for the first device of `kind`, which is what the
  // bundle was compiled for. Throws Failure of kind DeviceError when it is of another kind or not there.
  ComputeDevice(const std::string& text, const std::string& kind);

  DLDevice handle() const { return handle_; }
  const std::string& name() const { return name_; }
  // Null for the CPU.
  opencl::Device* opencl() const { return opencl_; }

  // TVM keeps a current device for every thread; a thread calls this before it works on the device.
  void MakeCurrent() const;
  void Synchronise() const;
  // Gives back what is kept for later.
  void ReleaseIdle() const;
  // The most bytes that may be in use, zero for no bound. What the CPU uses is not bounded.
  void SetBudget(uint64_t bytes) const;

  // What can be in use on it at most: the device's memory, the machine's for the CPU.
  uint64_t memory_bytes() const;
  // The most bytes in use at once since ResetPeak: buffers of the device, all of the process for the CPU.
  uint64_t peak_bytes() const;
  void ResetPeak() const;

 private:
  std::string name_;
  DLDevice handle_ = {kDLCPU, 0};
  opencl::Device* opencl_ = nullptr;
};

// A place in the stream of commands.
class Marker {
 public:
  // Marks what `device` was given so far; nothing is enqueued for the CPU, which has done it already.
  explicit Marker(const ComputeDevice& device);
  ~Marker();
  Marker(Marker&& other) noexcept;
  Marker(const Marker&) = delete;
  Marker& operator=(const Marker&) = delete;

  // Waits until everything before it has run. Throws what went wrong on the way.
  void Wait();

 private:
  opencl::Device* device_;
  opencl::cl_event event_ = nullptr;
  // How many commands it stands behind.
  uint64_t before_ = 0;
};

}  // namespace ddimcache::session
