// Ways to run recorded launches again that cost less than one enqueue each.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "argument.h"

namespace ddimcache::opencl {

// One launch of a recording. It owns its kernel object, whose arguments are set.
struct RecordedLaunch {
  std::shared_ptr<const KernelSignature> signature;
  cl_kernel kernel = nullptr;
  cl_uint dimensions = 1;
  size_t global[3] = {1, 1, 1};
  size_t local[3] = {1, 1, 1};
};

// A stretch of launches that the driver was given beforehand and enqueues at one call. Not thread-safe.
class PreparedLaunches {
 public:
  virtual ~PreparedLaunches() = default;

  // Enqueues all of them on the queue that they were prepared for.
  virtual cl_int Enqueue(cl_event* event) = 0;

  // Makes launch `launch` of the stretch take another argument, which its kernel object has already. Returns
  // false where only preparing the stretch again can do that.
  virtual bool Update(size_t launch, size_t argument, const EncodedArgument& value, size_t bytes) = 0;
};

// What a driver offers for replays.
class ReplayMethod {
 public:
  virtual ~ReplayMethod() = default;

  // As DDIMCACHE_REPLAY names it.
  virtual const char* name() const = 0;

  // The most launches of one stretch.
  virtual size_t most_launches() const = 0;

  // Throws RuntimeError with the driver's error.
  virtual std::unique_ptr<PreparedLaunches> Prepare(std::span<const RecordedLaunch> launches) = 0;
};

// Each returns null and a reason where the device does not offer it. `queue` is where replays run.
std::unique_ptr<ReplayMethod> MakeCommandBufferMethod(Device& device, cl_command_queue queue,
                                                      std::string* reason);

std::unique_ptr<ReplayMethod> MakeRecordableQueueMethod(Device& device, cl_command_queue queue,
                                                        std::string* reason);

// The value of DDIMCACHE_REPLAY.
enum class ReplayChoice { kAuto, kCommandBuffer, kRecordableQueue, kPlain, kOff };

// Throws ValueError for a value that it does not know, naming those that it does.
ReplayChoice ParseReplayChoice();

// False where DDIMCACHE_REPLAY is off: recordings are refused, and launches made one by one. Throws as above.
bool ReplayAllowed();

// What recordings on one device use. Thread-safe.
class ReplaySelection {
 public:
  explicit ReplaySelection(Device& device) : device_(device) {}

  // As DDIMCACHE_REPLAY says at the time of the call. Null where launches are enqueued one by one, which
  // `auto` does as well where that is faster. Throws RuntimeError where the variable demands what the device
  // does not have, or turns recordings off; ValueError as above.
  std::shared_ptr<ReplayMethod> Get();

  // From now on launches are enqueued one by one; says so once on standard error.
  void GiveUp(const std::string& reason);

 private:
  struct Candidate {
    bool made = false;
    // Null where the device does not have it, or it does not do what it should; the reason then says why.
    std::shared_ptr<ReplayMethod> method;
    std::string reason;
    // Its time over that of enqueueing one by one.
    double ratio = 0;
  };

  // With the mutex held.
  Candidate& Find(ReplayChoice choice);

  Device& device_;
  std::mutex mutex_;
  bool gave_up_ = false;
  Candidate recordable_queue_, command_buffer_;
};

// Replays a few launches of a small kernel by `method` and checks what they computed. Returns the time that
// takes over the time of the same launches one by one. Throws RuntimeError where it fails or computes
// something else.
double CheckReplayMethod(Device& device, ReplayMethod& method);

}  // namespace ddimcache::opencl
