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

// What the steps of an image work on. All but `added` and `mask` are as many numbers as latents.
struct Beginning {
  std::vector<float> latents;
  // What the steps add, for as many steps as there are any.
  std::vector<float> added;
  // Where a mask keeps parts of a picture: its latents, the noise that hides them from the steps, and the
  // mask [h, w], 1 where the picture is drawn anew and 0 elsewhere. Empty otherwise.
  std::vector<float> picture, noise, mask;
  // For a UNet that inpaints: [B, 1 + C, h, w], the mask and the latents of the masked picture.
  std::vector<float> surroundings;
};

class UnetLoop {
 public:
  // For pictures of `size`, an entry of the manifest. `contexts` are of the prompt and of the negative
  // prompt, [B, L, D]; what they hold may change between images. With `replay`, which the CPU cannot, steps
  // are recorded and replayed; without it every launch goes through the VM.
  UnetLoop(const Manifest& manifest, const PictureSize& size, std::shared_ptr<LoadedComponent> unet,
           const ComputeDevice& device, const std::array<tvm::runtime::Tensor, 2>& contexts, bool replay);
  ~UnetLoop();

  // Uploads it and one row of numbers for each step, and computes what does not depend on latents.
  void Begin(const Beginning& beginning, const std::vector<Step>& steps, double guidance);

  // Enqueues the next step. Returns whether it was replayed.
  bool Enqueue(bool is_full);

  const tvm::runtime::Tensor& latents() const { return latents_; }
  const PictureSize& size() const { return size_; }

 private:
  void Launch(bool is_full);
  // A function of the UNet for `prompt`, one or both.
  tvm::ffi::Any Call(const tvm::ffi::Function& function, const tvm::runtime::Tensor& prompt,
                     const std::vector<tvm::ffi::Any>& features);
  // The UNet's call of a step for `prompt`: the prediction and the features of a full step go to `side`.
  void Predict(bool is_full, size_t side, const tvm::ffi::Function& full, const tvm::ffi::Function& cached,
               const tvm::runtime::Tensor& prompt);
  // Computes what the UNet takes of the prompts.
  void ProjectContexts();
  // Computes what the UNet takes of 64 steps from `first` on. Waits for nothing.
  void EmbedTimes(size_t first);
  // Uploads what a mask keeps, where there is one, or what the UNet takes of it.
  void PlacePicture(const Beginning& beginning);
  // Puts the noise of the next step where the sampler's kernel reads it. Waits for nothing.
  void PlaceNoise();

  const PictureSize& size_;
  const ComputeDevice& device_;
  const std::shared_ptr<LoadedComponent> unet_;
  const bool replay_;
  bool guided_ = false, masked_ = false;
  size_t next_ = 0;
  tvm::ffi::Function full_, cached_, next_step_, step_, guide_and_step_;
  // Null where the UNet has no such function, and takes timesteps and contexts as they are.
  const tvm::ffi::Function *embed_time_, *project_context_, *project_surroundings_;
  // `timesteps_` are all of an image, and `times_` what is made of 64 of them; `time_` is the present one's.
  // `history_` is the picture that the step before predicted, and `noise_` what the present step adds.
  tvm::runtime::Tensor latents_, history_, noise_, table_, row_, timesteps_, times_, time_;
  // What is kept of a picture where a mask is 0. Made for the first image that has one, and stay there,
  // because recordings read them where they are.
  struct Kept {
    tvm::ffi::Function keep_picture;
    tvm::runtime::Tensor picture, noise, mask;
  };
  std::optional<Kept> kept_;
  // What all steps add, one behind the other; nothing where they add none.
  std::optional<tvm::runtime::Tensor> noises_;
  // The timesteps that `times_` was made of.
  std::vector<float> schedule_, embedded_;
  const std::array<tvm::runtime::Tensor, 2> contexts_;
  // What the UNet takes of both prompts. Recordings read it where it is.
  std::array<tvm::runtime::Tensor, 2> prompts_;
  // What a UNet that inpaints takes of an image, and what that is made of; nothing for other UNets.
  std::optional<tvm::runtime::Tensor> projected_, surroundings_;
  // For both prompts at once: nothing where the UNet has no functions for them. What a step predicts and
  // keeps is then at the place of the prompt alone.
  struct Both {
    tvm::ffi::Function full, cached, guide_both_and_step;
    tvm::runtime::Tensor prompts;
  };
  std::optional<Both> both_;
  // What the last full step left for the cached ones, of each prompt.
  std::array<std::vector<tvm::ffi::Any>, 2> features_;
  // These two are of a cached and of a full step. A recording writes to its own predictions at every replay.
  std::array<std::array<tvm::ffi::Any, 2>, 2> predictions_;
  std::array<std::unique_ptr<opencl::Recording>, 2> recordings_;
};

}  // namespace ddimcache::session
