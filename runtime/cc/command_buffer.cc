// Replays by cl_khr_command_buffer.

#include <array>
#include <utility>

#include "opencl_extensions.h"
#include "replay.h"

namespace ddimcache::opencl {
namespace {

struct Functions {
#define DDIMCACHE_DECLARE(name, result, parameters) result(DDIMCACHE_CL_CALL* name) parameters = nullptr;
  DDIMCACHE_CL_COMMAND_BUFFER_FUNCTIONS(DDIMCACHE_DECLARE)
#undef DDIMCACHE_DECLARE

  // Returns the name that is missing, or null.
  const char* Find(const Device& device) {
#define DDIMCACHE_FIND(name, result, parameters)                  \
  name = reinterpret_cast<result(DDIMCACHE_CL_CALL*) parameters>( \
      device.api.FindOptional(device.platform, #name));           \
  if (name == nullptr) return #name;
    DDIMCACHE_CL_COMMAND_BUFFER_FUNCTIONS(DDIMCACHE_FIND)
#undef DDIMCACHE_FIND
    return nullptr;
  }
};

// One command buffer, or two in turns where the driver does not let one run while it still runs: the host
// then waits for the replay before the last one, and the device does not idle.
class CommandBuffers final : public PreparedLaunches {
 public:
  CommandBuffers(Device& device, const Functions& functions, cl_command_queue queue, bool simultaneous,
                 std::span<const RecordedLaunch> launches)
      : device_(device), functions_(functions), queue_(queue), simultaneous_(simultaneous) {
    buffers_[0].handle = Make(launches);
    if (!simultaneous_) {
      try {
        buffers_[1].handle = Make(launches);
      } catch (...) {
        functions_.clReleaseCommandBufferKHR(buffers_[0].handle);
        throw;
      }
    }
  }

  ~CommandBuffers() override {
    for (const Buffer& buffer : buffers_) {
      if (buffer.last != nullptr) device_.api.clReleaseEvent(buffer.last);
      if (buffer.handle != nullptr) functions_.clReleaseCommandBufferKHR(buffer.handle);
    }
  }

  cl_int Enqueue(cl_event* event) override {
    if (simultaneous_) {
      return functions_.clEnqueueCommandBufferKHR(0, nullptr, buffers_[0].handle, 0, nullptr, event);
    }
    Buffer& buffer = buffers_[next_];
    next_ = 1 - next_;
    if (cl_event last = std::exchange(buffer.last, nullptr)) {
      device_.api.clWaitForEvents(1, &last);
      device_.api.clReleaseEvent(last);
    }
    const cl_int code =
        functions_.clEnqueueCommandBufferKHR(0, nullptr, buffer.handle, 0, nullptr, &buffer.last);
    if (code != kSuccess) {
      buffer.last = nullptr;
    } else if (event != nullptr) {
      device_.api.clRetainEvent(buffer.last);
      *event = buffer.last;
    }
    return code;
  }

  // Revisions of cl_khr_command_buffer_mutable_dispatch differ in how to call it; a stretch is quickly
  // prepared again.
  bool Update(size_t, size_t, const EncodedArgument&, size_t) override { return false; }

 private:
  struct Buffer {
    cl_command_buffer_khr handle = nullptr;
    cl_event last = nullptr;
  };

  cl_command_buffer_khr Make(std::span<const RecordedLaunch> launches) {
    const cl_ulong properties[] = {kCommandBufferFlags, kCommandBufferSimultaneousUse, 0};
    cl_int code = kSuccess;
    cl_command_buffer_khr buffer =
        functions_.clCreateCommandBufferKHR(1, &queue_, simultaneous_ ? properties : nullptr, &code);
    Check(code, "clCreateCommandBufferKHR", "on " + device_.Describe());
    const char* call = "clCommandNDRangeKernelKHR";
    std::string kernel;
    for (const RecordedLaunch& launch : launches) {
      code = functions_.clCommandNDRangeKernelKHR(buffer, nullptr, nullptr, launch.kernel, launch.dimensions,
                                                  nullptr, launch.global, launch.local, 0, nullptr, nullptr,
                                                  nullptr);
      if (code != kSuccess) {
        kernel = "of kernel \"" + launch.signature->name + "\" ";
        break;
      }
    }
    if (code == kSuccess) {
      call = "clFinalizeCommandBufferKHR";
      code = functions_.clFinalizeCommandBufferKHR(buffer);
    }
    if (code != kSuccess) functions_.clReleaseCommandBufferKHR(buffer);
    Check(code, call, kernel + "on " + device_.Describe());
    return buffer;
  }

  Device& device_;
  const Functions functions_;
  const cl_command_queue queue_;
  const bool simultaneous_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
};

class CommandBufferMethod final : public ReplayMethod {
 public:
  CommandBufferMethod(Device& device, const Functions& functions, cl_command_queue queue)
      : device_(device), functions_(functions), queue_(queue) {
    cl_bitfield capabilities = 0;
    device_.api.clGetDeviceInfo(device_.id, kDeviceCommandBufferCapabilities, sizeof(capabilities),
                                &capabilities, nullptr);
    simultaneous_ = (capabilities & kCommandBufferCapabilitySimultaneousUse) != 0;
  }

  const char* name() const override { return "command-buffer"; }
  size_t most_launches() const override { return SIZE_MAX; }

  std::unique_ptr<PreparedLaunches> Prepare(std::span<const RecordedLaunch> launches) override {
    return std::make_unique<CommandBuffers>(device_, functions_, queue_, simultaneous_, launches);
  }

 private:
  Device& device_;
  const Functions functions_;
  const cl_command_queue queue_;
  bool simultaneous_ = false;
};

}  // namespace

std::unique_ptr<ReplayMethod> MakeCommandBufferMethod(Device& device, cl_command_queue queue,
                                                      std::string* reason) {
  if (!device.info.HasExtension("cl_khr_command_buffer")) {
    *reason = "has no cl_khr_command_buffer";
    return nullptr;
  }
  Functions functions;
  if (const char* missing = functions.Find(device)) {
    *reason = std::string("lists cl_khr_command_buffer, but has no ") + missing;
    return nullptr;
  }
  return std::make_unique<CommandBufferMethod>(device, functions, queue);
}

}  // namespace ddimcache::opencl
