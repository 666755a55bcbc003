// What is done for one image, on the thread that does it.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "../arena.h"
#include "component.h"
#include "session.h"
#include "unet_loop.h"

namespace ddimcache::session {

// Where the painter tells how far it is. All are called on the painter's thread.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void Entered(State state, const Timings& timings) = 0;
  // `steps` of the image have run.
  virtual void StepsDone(int steps, const Timings& timings) = 0;
  virtual bool Cancelled() = 0;
  virtual bool WantsPreview() = 0;
  // The latents after `steps` steps.
  virtual void Preview(int steps, std::vector<float> latents) = 0;
};

// Times of one image.
class Clock {
 public:
  using Instant = std::chrono::steady_clock::time_point;
  static Instant Now() { return std::chrono::steady_clock::now(); }
  static double Seconds(Instant begin, Instant end) {
    return std::chrono::duration<double>(end - begin).count();
  }

  explicit Clock(Instant began) : began_(began) {}

  void AddStep(bool is_full, double seconds);
  // As of now.
  Timings timings() const;

  double text = 0, denoise = 0, decode = 0;
  int replayed = 0;

 private:
  Instant began_;
  // Of cached and of full steps.
  std::array<std::vector<double>, 2> steps_;
};

class Painter {
 public:
  Painter(const Bundle& bundle, const ComputeDevice& device, Memory mode, bool replay);

  // `began` is when the image was asked for. Throws Failure; of kind CancelledError when the observer
  // cancelled.
  Picture Paint(const Request& request, Clock::Instant began, Observer& observer);

 private:
  // Makes `size` the one that is drawn, and gives back what another one's images left.
  void SetSize(const PictureSize& size);
  void EncodeText(const Request& request, Clock& clock, Observer& observer);
  void EncodePrompt(const LoadedComponent& encoder, const std::vector<int32_t>& ids, bool negative);
  std::vector<float> Denoise(const Request& request, const SamplingPlan& plan, Clock& clock,
                             Observer& observer);
  // What the steps begin with.
  Beginning Begin(const Request& request, const SamplingPlan& plan, Clock& clock);
  // A picture's latents, of a sample that `noise` draws; grey where there is a mask that is white.
  std::vector<float> EncodeImage(const std::vector<uint8_t>& image, const std::vector<uint8_t>& mask,
                                 const std::vector<float>& noise, Clock& clock);
  void RunSteps(const std::vector<Step>& steps, Clock& clock, Observer& observer);
  std::vector<float> ReadLatents() const;
  std::vector<uint8_t> Decode(Clock& clock, Observer& observer);

  const Bundle& bundle_;
  const ComputeDevice& device_;
  const Memory mode_;
  const bool replay_;
  Components components_;
  // Of the prompt, and of the negative prompt.
  const std::array<tvm::runtime::Tensor, 2> contexts_;
  // Of the image at work.
  const PictureSize* size_;
  // Where everything stays on the device, what the components' calls use in turns. It has to outlive the
  // loop's recordings.
  std::unique_ptr<opencl::Arena> arena_;
  std::unique_ptr<UnetLoop> loop_;
};

// Nothing where the image does not begin with a picture.
std::optional<double> StrengthOf(const Request& request);

// Throws Failure of kind UsageError that names what is wrong with the request.
void CheckRequest(const Request& request, const Manifest& manifest, const PictureSize& size);

}  // namespace ddimcache::session
