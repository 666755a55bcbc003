// The steps of one image: what the UNet and the sampler's kernels are given lives on the device, and a step
// has no argument that depends on the host, so each kind of step is recorded once and replayed.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "component.h"
#include "schedule.h"

namespace ddimcache::opencl {
class Recording;
}

namespace ddimcache::session {

class UnetLoop {
 public:
  // `contexts` are of the prompt and of the negative prompt, [B, L, D]; what they hold may change between
  // images. With `replay`, which the CPU cannot, steps are recorded and replayed; without it every launch
  // goes through the VM.
  UnetLoop(const Manifest& manifest, std::shared_ptr<LoadedComponent> unet, const ComputeDevice& device,
           const std::array<tvm::runtime::Tensor, 2>& contexts, bool replay);
  ~UnetLoop();

  // Uploads the latents and one row of numbers for each step, and computes what does not depend on latents.
  // `noise` is what the steps add, as many numbers as latents each, for as many steps as there are any.
  void Begin(const std::vector<float>& latents, const std::vector<Step>& steps,
             const std::vector<float>& noise, double guidance);

  // Enqueues the next step. Returns whether it was replayed.
  bool Enqueue(bool is_full);

  const tvm::runtime::Tensor& latents() const { return latents_; }

 private:
  void Launch(bool is_full);
  // Computes what the UNet takes of 64 steps from `first` on. Waits for nothing.
  void EmbedTimes(size_t first);
  // Puts the noise of the next step where the sampler's kernel reads it. Waits for nothing.
  void PlaceNoise();

  const ComputeDevice& device_;
  const std::shared_ptr<LoadedComponent> unet_;
  const bool replay_;
  bool guided_ = false;
  size_t next_ = 0;
  tvm::ffi::Function full_, cached_, next_step_, step_, guide_and_step_;
  // Null where the UNet has no such function, and takes timesteps and contexts as they are.
  const tvm::ffi::Function *embed_time_, *project_context_;
  // `timesteps_` are all of an image, and `times_` what is made of 64 of them; `time_` is the present one's.
  // `history_` is the picture that the step before predicted, and `noise_` what the present step adds.
  tvm::runtime::Tensor latents_, history_, noise_, table_, row_, timesteps_, times_, time_;
  // What all steps add, one behind the other; nothing where they add none.
  std::optional<tvm::runtime::Tensor> noises_;
  // The timesteps that `times_` was made of.
  std::vector<float> schedule_, embedded_;
  const std::array<tvm::runtime::Tensor, 2> contexts_;
  // What the UNet takes of both prompts. Recordings read it where it is.
  std::array<tvm::runtime::Tensor, 2> prompts_;
  std::array<tvm::ffi::Any, 2> features_;
  // These two are of a cached and of a full step. A recording writes to its own predictions at every replay.
  std::array<std::array<tvm::ffi::Any, 2>, 2> predictions_;
  std::array<std::unique_ptr<opencl::Recording>, 2> recordings_;
};

}  // namespace ddimcache::session
