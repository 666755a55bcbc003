#include "replay.h"

#include <tvm/ffi/error.h>

#include <cstdlib>
#include <string_view>
#include <utility>

#include "log.h"

namespace ddimcache::opencl {
namespace {

constexpr const char* kVariable = "DDIMCACHE_REPLAY";

constexpr std::pair<std::string_view, ReplayChoice> kChoices[] = {
    {"auto", ReplayChoice::kAuto},
    {"command-buffer", ReplayChoice::kCommandBuffer},
    {"recordable-queue", ReplayChoice::kRecordableQueue},
    {"plain", ReplayChoice::kPlain},
    {"off", ReplayChoice::kOff},
};

}  // namespace

ReplayChoice ParseReplayChoice() {
  const char* text = std::getenv(kVariable);
  if (text == nullptr || *text == '\0') return ReplayChoice::kAuto;
  std::string known;
  for (const auto& [name, choice] : kChoices) {
    if (name == text) return choice;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  TVM_FFI_THROW(ValueError) << kVariable << " is \"" << text << "\", but can be: " << known;
  TVM_FFI_UNREACHABLE();
}

ReplaySelection::Candidate& ReplaySelection::Find(ReplayChoice choice) {
  const bool is_queue = choice == ReplayChoice::kRecordableQueue;
  Candidate& candidate = is_queue ? recordable_queue_ : command_buffer_;
  if (candidate.made) return candidate;
  candidate.made = true;
  const cl_command_queue queue = device_.queue().plain();
  std::shared_ptr<ReplayMethod> method =
      (is_queue ? MakeRecordableQueueMethod : MakeCommandBufferMethod)(device_, queue, &candidate.reason);
  if (method == nullptr) return candidate;
  try {
    candidate.ratio = CheckReplayMethod(device_, *method);
    candidate.method = std::move(method);
  } catch (const tvm::ffi::Error& error) {
    candidate.reason = std::string("fails at ") + method->name() + ": " + error.message();
    LogLine("replays do without " + std::string(method->name()) + ": " + device_.Describe() + " " +
            candidate.reason);
  }
  return candidate;
}

std::shared_ptr<ReplayMethod> ReplaySelection::Get() {
  const ReplayChoice choice = ParseReplayChoice();
  if (choice == ReplayChoice::kOff) {
    TVM_FFI_THROW(RuntimeError) << kVariable << " is off, so that no recording can be made: ask "
                                << "ReplayAllowed first, and launch one by one";
  }
  if (choice == ReplayChoice::kPlain) return nullptr;
  std::lock_guard lock(mutex_);
  if (gave_up_) return nullptr;
  if (choice != ReplayChoice::kAuto) {
    const Candidate& candidate = Find(choice);
    if (candidate.method == nullptr) {
      TVM_FFI_THROW(RuntimeError) << kVariable << " is " << std::getenv(kVariable) << ", but "
                                  << device_.Describe() << " " << candidate.reason
                                  << ": set it to auto, or to plain";
    }
    return candidate.method;
  }
  std::shared_ptr<ReplayMethod> best;
  double least = 1;
  for (ReplayChoice tried : {ReplayChoice::kRecordableQueue, ReplayChoice::kCommandBuffer}) {
    const Candidate& candidate = Find(tried);
    if (candidate.method == nullptr || candidate.ratio >= least) continue;
    best = candidate.method;
    least = candidate.ratio;
  }
  return best;
}

void ReplaySelection::GiveUp(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (gave_up_) return;
  gave_up_ = true;
  LogLine("launches are replayed one by one on " + device_.Describe() + ": " + reason);
}

bool ReplayAllowed() {
  return ParseReplayChoice() != ReplayChoice::kOff;
}

}  // namespace ddimcache::opencl
