#include "unet_loop.h"

#include <algorithm>

#include "../recording.h"

namespace ddimcache::session {
namespace {

using tvm::ffi::Any;
using tvm::runtime::Tensor;

// What a row of the table holds is written down in kernels/sampler/kernel.py.
constexpr int64_t kColumns = 9;

}  // namespace

UnetLoop::UnetLoop(const Manifest& manifest, std::shared_ptr<LoadedComponent> unet,
                   const ComputeDevice& device, const std::array<Tensor, 2>& contexts, bool replay)
    : device_(device),
      unet_(std::move(unet)),
      replay_(replay),
      full_(unet_->function("full")),
      cached_(unet_->function("cached")),
      next_step_(unet_->Kernel("next_step")),
      step_(unet_->Kernel("step")),
      guide_and_step_(unet_->Kernel("guide_and_step")),
      latents_(EmptyTensor(manifest.latents(), device)),
      table_(EmptyTensor({{kMostSteps, kColumns}, "float32"}, device)),
      row_(EmptyTensor({{1}, "int32"}, device)),
      timestep_(EmptyTensor({{1}, "float32"}, device)),
      contexts_(contexts) {}

UnetLoop::~UnetLoop() = default;

void UnetLoop::Begin(const std::vector<float>& latents, const std::vector<Step>& steps, double guidance) {
  std::vector<float> table(kMostSteps * kColumns);
  auto number = table.begin();
  for (const Step& step : steps) {
    const StepCoefficients& c = step.coefficients;
    for (const double value :
         {static_cast<double>(step.timestep), c.p, c.q, c.r, c.s, c.clip, c.a, c.b, guidance}) {
      *number++ = static_cast<float>(value);
    }
  }
  table_.CopyFromBytes(table.data(), table.size() * sizeof(float));
  // The first step moves on to row 0.
  const int32_t before_first = -1;
  row_.CopyFromBytes(&before_first, sizeof(before_first));
  latents_.CopyFromBytes(latents.data(), latents.size() * sizeof(float));
  if (guided_ != (guidance > 1)) {
    // Another number of calls a step.
    guided_ = guidance > 1;
    recordings_ = {};
    features_ = {};
    predictions_ = {};
  }
}

bool UnetLoop::Enqueue(bool is_full) {
  if (!replay_) {
    Launch(is_full);
    return false;
  }
  auto& recording = recordings_[is_full];
  const bool recorded = recording != nullptr;
  if (!recorded) {
    // A new recording of full steps leaves its features elsewhere.
    if (is_full) recordings_[false].reset();
    recording = opencl::Recording::Record(*device_.opencl(), [&] { Launch(is_full); });
  }
  recording->Replay();
  return recorded;
}

void UnetLoop::Launch(bool is_full) {
  next_step_(table_, row_, timestep_);
  const auto& weights = unet_->weights();
  auto& predictions = predictions_[is_full];
  // The negative prompt first, as the sampler's kernel takes them.
  for (int negative = guided_; negative >= 0; --negative) {
    const auto side = static_cast<size_t>(negative);
    if (is_full) {
      features_[side] = predictions[side] = Any();
      const auto outputs = full_(latents_, timestep_, contexts_[side], weights).cast<tvm::ffi::Array<Any>>();
      predictions[side] = outputs[0];
      features_[side] = outputs[1];
    } else {
      predictions[side] = Any();
      predictions[side] =
          cached_(latents_, timestep_, contexts_[side], features_[side].cast<Tensor>(), weights);
    }
  }
  const Tensor prediction = predictions[0].cast<Tensor>();
  if (guided_) {
    guide_and_step_(latents_, predictions[1].cast<Tensor>(), prediction, table_, row_);
  } else {
    step_(latents_, prediction, table_, row_);
  }
}

}  // namespace ddimcache::session
