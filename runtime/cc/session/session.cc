#include "session.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "../replay.h"
#include "memory_plan.h"
#include "painter.h"

extern "C" const char* ddimcache_register();

namespace ddimcache::session {
namespace {

void Register() {
  const char* problem = ddimcache_register();
  if (problem != nullptr) throw Failure("InternalError", problem, "registration with TVM");
}

// What went wrong inside as a Failure. Errors of a driver are plain RuntimeErrors; other kinds are defects.
Failure Translate(std::exception_ptr exception, const std::string& device) {
  try {
    std::rethrow_exception(exception);
  } catch (const Failure& failure) {
    return failure;
  } catch (const tvm::ffi::Error& error) {
    const std::string kind(error.kind()), message(error.message());
    if (kind == "RuntimeError") {
      return Failure("DeviceError", message, "device " + device, "see `ddimcache doctor`");
    }
    return Failure("InternalError", kind + ": " + message, "device " + device);
  } catch (const std::bad_alloc&) {
    return Failure("DeviceError", "the machine has no memory left", "device " + device);
  } catch (const std::exception& error) {
    return Failure("InternalError", error.what(), "device " + device);
  }
}

Progress Idle(const PictureSize& size) {
  Progress progress;
  progress.width = static_cast<int>(size.width);
  progress.height = static_cast<int>(size.height);
  return progress;
}

}  // namespace

class Session::Implementation final : public Observer {
 public:
  Implementation(const std::string& folder, const Options& options)
      : bundle_(OpenBundle(folder, !options.verified)),
        device_(options.device, bundle_.manifest.device_kind),
        bounded_(options.memory_budget != 0) {
    const Manifest& manifest = bundle_.manifest;
    const uint64_t bytes = options.memory_budget != 0 ? options.memory_budget : device_.memory_bytes();
    const bool replay = options.replay && device_.opencl() != nullptr && opencl::ReplayAllowed();
    facts_.memory = ChooseMemory(manifest, options.memory, bytes);
    facts_.memory_estimate = EstimateBytes(manifest, facts_.memory);
    facts_.model = manifest.model;
    facts_.device = device_.name();
    facts_.tokenizer = bundle_.path(manifest.tokenizer).string();
    facts_.text_length = static_cast<int>(manifest.context.shape[1]);
    facts_.batch = static_cast<int>(manifest.batch);
    for (const PictureSize& size : manifest.sizes) {
      facts_.sizes.push_back({static_cast<int>(size.width), static_cast<int>(size.height)});
    }
    facts_.latents_shape = manifest.latents(manifest.sizes.front()).shape;
    progress_ = Idle(manifest.sizes.front());
    try {
      if (bounded_) device_.SetBudget(options.memory_budget);
      device_.ResetPeak();
      painter_ = std::make_unique<Painter>(bundle_, device_, facts_.memory, replay);
    } catch (...) {
      throw Translate(std::current_exception(), device_.name());
    }
    began_ = Clock::Now();
    worker_ = std::thread([this] { Work(); });
  }

  ~Implementation() override {
    {
      std::lock_guard lock(mutex_);
      closing_ = cancelled_ = true;
    }
    changed_.notify_all();
    worker_.join();
    if (bounded_) device_.SetBudget(0);
  }

  void Start(const Request& request) {
    const PictureSize& size = bundle_.manifest.SizeOf(request.width, request.height);
    CheckRequest(request, bundle_.manifest, size);
    std::lock_guard lock(mutex_);
    if (request_.has_value()) {
      throw Failure("UsageError", "an image is at work", "session", "wait for it, or cancel it");
    }
    // The first image's time begins when the session was opened.
    if (progress_.state != State::kIdle) began_ = Clock::Now();
    request_ = request;
    cancelled_ = false;
    preview_wanted_ = false;
    failure_.reset();
    picture_ = {};
    progress_ = Idle(size);
    progress_.state = State::kText;
    progress_.steps = StepsTaken(request.steps, StrengthOf(request));
    Changed();
  }

  Progress Poll(double wait_seconds, bool preview) {
    std::unique_lock lock(mutex_);
    const bool at_work = request_.has_value();
    preview_wanted_ = preview_wanted_ || (preview && at_work);
    if (at_work && wait_seconds > 0) {
      const auto wait = std::chrono::duration<double>(std::min(wait_seconds, 1e6));
      changed_.wait_for(lock, wait, [&] { return version_ != told_; });
    }
    told_ = version_;
    Progress progress = progress_;
    progress_.preview.clear();
    return progress;
  }

  Picture Result() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !request_.has_value(); });
    if (failure_.has_value()) throw *failure_;
    if (progress_.state != State::kDone) throw Failure("UsageError", "start an image first", "session");
    return picture_;
  }

  void Cancel() { cancelled_ = true; }

  const Facts& facts() const { return facts_; }
  uint64_t peak_bytes() const { return device_.peak_bytes(); }

  void Entered(State state, const Timings& timings) override {
    std::lock_guard lock(mutex_);
    progress_.timings = timings;
    // Done is told with the picture.
    if (state != State::kDone) progress_.state = state;
    Changed();
  }

  void StepsDone(int steps, const Timings& timings) override {
    // Nobody is woken: a poll that waits waits for more than a step.
    std::lock_guard lock(mutex_);
    progress_.steps_done = steps;
    progress_.timings = timings;
  }

  bool Cancelled() override { return cancelled_; }
  bool WantsPreview() override { return preview_wanted_; }

  void Preview(int steps, std::vector<float> latents) override {
    std::lock_guard lock(mutex_);
    preview_wanted_ = false;
    progress_.preview = std::move(latents);
    progress_.preview_step = steps;
    Changed();
  }

 private:
  void Changed() {
    ++version_;
    changed_.notify_all();
  }

  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return closing_ || request_.has_value(); });
      if (closing_) return;
      const Request request = *request_;
      const auto began = began_;
      lock.unlock();
      Picture picture;
      std::optional<Failure> failure;
      try {
        picture = painter_->Paint(request, began, *this);
      } catch (...) {
        failure.emplace(Translate(std::current_exception(), device_.name()));
      }
      lock.lock();
      picture_ = std::move(picture);
      if (failure.has_value()) failure_.emplace(*failure);
      progress_.state = !failure.has_value()                ? State::kDone
                        : failure->kind == "CancelledError" ? State::kCancelled
                                                            : State::kFailed;
      request_.reset();
      Changed();
    }
  }

  const Bundle bundle_;
  const ComputeDevice device_;
  const bool bounded_;
  Facts facts_;
  std::unique_ptr<Painter> painter_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Counts what a poll may wait for, and what the last one has told.
  uint64_t version_ = 0, told_ = 0;
  bool closing_ = false;
  std::atomic<bool> cancelled_{false}, preview_wanted_{false};
  Clock::Instant began_;
  // Set while an image is at work.
  std::optional<Request> request_;
  Progress progress_;
  Picture picture_;
  std::optional<Failure> failure_;
  std::thread worker_;
};

Session::Session(const std::string& bundle, const Options& options) {
  Register();
  implementation_ = std::make_unique<Implementation>(bundle, options);
}

Session::~Session() = default;

const Facts& Session::facts() const {
  return implementation_->facts();
}

Picture Session::Draw(const Request& request) {
  Start(request);
  return Result();
}

void Session::Start(const Request& request) {
  implementation_->Start(request);
}

Progress Session::Poll(double wait_seconds, bool preview) {
  return implementation_->Poll(wait_seconds, preview);
}

Picture Session::Result() {
  return implementation_->Result();
}

void Session::Cancel() {
  implementation_->Cancel();
}

uint64_t Session::peak_bytes() const {
  return implementation_->peak_bytes();
}

}  // namespace ddimcache::session
