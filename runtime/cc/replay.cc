#include "replay.h"

#include <tvm/ffi/error.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

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

std::shared_ptr<ReplayMethod> ReplaySelection::Get() {
  std::lock_guard lock(mutex_);
  if (chosen_) return method_;
  const ReplayChoice choice = ParseReplayChoice();
  if (choice == ReplayChoice::kOff) {
    TVM_FFI_THROW(RuntimeError) << kVariable << " is off, so that no recording can be made: ask "
                                << "ReplayAllowed first, and launch one by one";
  }
  const cl_command_queue queue = device_.queue().plain();
  using Make = std::unique_ptr<ReplayMethod> (*)(Device&, cl_command_queue, std::string*);
  constexpr std::pair<ReplayChoice, Make> kMethods[] = {
      {ReplayChoice::kRecordableQueue, MakeRecordableQueueMethod},
      {ReplayChoice::kCommandBuffer, MakeCommandBufferMethod},
  };
  for (const auto& [named, make] : kMethods) {
    if (choice != ReplayChoice::kAuto && choice != named) continue;
    std::string reason;
    method_ = make(device_, queue, &reason);
    if (method_ != nullptr) break;
    if (choice == named) {
      TVM_FFI_THROW(RuntimeError) << kVariable << " is " << std::getenv(kVariable) << ", but "
                                  << device_.Describe() << " " << reason << ": set it to auto, or to plain";
    }
  }
  chosen_ = true;
  return method_;
}

void ReplaySelection::GiveUp(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (method_ == nullptr) return;
  method_.reset();
  std::fprintf(stderr, "ddimcache: launches are replayed one by one on %s: %s\n", device_.Describe().c_str(),
               reason.c_str());
}

bool ReplayAllowed() {
  return ParseReplayChoice() != ReplayChoice::kOff;
}

}  // namespace ddimcache::opencl
