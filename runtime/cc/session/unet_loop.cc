#include "unet_loop.h"

#include <algorithm>

#include "../recording.h"

namespace ddimcache::session {
namespace {

using tvm::ffi::Any;
using tvm::runtime::Tensor;

// What a row of the table holds is written down in kernels/sampler/kernel.py.
constexpr int64_t kColumns = 12;
constexpr int64_t kMostBlocks = (kMostSteps + kTimesAtOnce - 1) / kTimesAtOnce;

// One of the halves of a tensor for both prompts; `half` is of the shape of either.
void CopyToHalf(const Tensor& half, size_t second, const Tensor& both) {
  DLTensor part = *both.operator->();
  part.shape = half->shape, part.strides = nullptr;
  part.byte_offset += second * tvm::ffi::GetDataSize(part);
  Tensor::CopyFromTo(half.operator->(), &part);
}

// What 64 steps take, by what one of them takes.
TensorSpec TimesOf(TensorSpec time) {
  time.shape[0] = kTimesAtOnce;
  return time;
}

}  // namespace

UnetLoop::UnetLoop(const Manifest& manifest, const PictureSize& size, std::shared_ptr<LoadedComponent> unet,
                   const ComputeDevice& device, const std::array<Tensor, 2>& contexts, bool replay)
    : size_(size),
      device_(device),
      unet_(std::move(unet)),
      replay_(replay),
      full_(unet_->function("full" + size.suffix)),
      cached_(unet_->function("cached" + size.suffix)),
      next_step_(unet_->Kernel("next_step")),
      step_(unet_->Kernel("step" + size.suffix)),
      guide_and_step_(unet_->Kernel("guide_and_step" + size.suffix)),
      embed_time_(unet_->Find("embed_time")),
      project_context_(unet_->Find("project_context")),
      project_surroundings_(unet_->Find("project_surroundings" + size.suffix)),
      latents_(EmptyTensor(manifest.latents(size), device)),
      history_(EmptyTensor(manifest.latents(size), device)),
      noise_(EmptyTensor(manifest.latents(size), device)),
      table_(EmptyTensor({{kMostSteps, kColumns}, "float32"}, device)),
      row_(EmptyTensor({{2}, "int32"}, device)),
      timesteps_(EmptyTensor({{kMostBlocks, kTimesAtOnce}, "float32"}, device)),
      times_(EmptyTensor(TimesOf(manifest.time()), device)),
      time_(EmptyTensor(manifest.time(), device)),
      contexts_(contexts),
      prompts_(contexts) {
  if (manifest.inpaints) {
    surroundings_ = EmptyTensor(manifest.surroundings(size), device);
    projected_ = EmptyTensor(manifest.projected(size), device);
  }
  if (manifest.guides_in_one_call()) {
    both_ = Both{unet_->function("full" + (kGuided + size.suffix)),
                 unet_->function("cached" + (kGuided + size.suffix)),
                 unet_->Kernel("guide_both_and_step" + size.suffix),
                 EmptyTensor(manifest.prompt().for_both(), device)};
  }
  if (project_context_ == nullptr) return;
  for (Tensor& prompt : prompts_) prompt = EmptyTensor(manifest.prompt(), device);
}

UnetLoop::~UnetLoop() = default;

void UnetLoop::Begin(const Beginning& beginning, const std::vector<Step>& steps, double guidance) {
  const std::vector<float>& latents = beginning.latents;
  std::vector<float> table(kMostSteps * kColumns);
  auto number = table.begin();
  schedule_.assign(kMostBlocks * kTimesAtOnce, 0);
  for (size_t index = 0; index < steps.size(); ++index) {
    const StepCoefficients& c = steps[index].coefficients;
    schedule_[index] = static_cast<float>(steps[index].timestep);
    for (const double value : {c.p, c.q, c.r, c.s, c.clip, c.a, c.b, guidance, c.c, c.d,
                               steps[index].kept_picture, steps[index].kept_noise}) {
      *number++ = static_cast<float>(value);
    }
  }
  table_.CopyFromBytes(table.data(), table.size() * sizeof(float));
  timesteps_.CopyFromBytes(schedule_.data(), schedule_.size() * sizeof(float));
  // The present step, which is not there yet, and the next.
  const int32_t rows[] = {0, 0};
  row_.CopyFromBytes(rows, sizeof(rows));
  latents_.CopyFromBytes(latents.data(), latents.size() * sizeof(float));
  // They are multiplied by 0 where a step does not use them, so they have to be finite.
  const std::vector<float> zeros(latents.size());
  for (Tensor* tensor : {&history_, &noise_}) {
    tensor->CopyFromBytes(zeros.data(), zeros.size() * sizeof(float));
  }
  noises_.reset();
  if (const std::vector<float>& added = beginning.added; !added.empty()) {
    noises_ = EmptyTensor({{static_cast<int64_t>(added.size())}, "float32"}, device_);
    noises_->CopyFromBytes(added.data(), added.size() * sizeof(float));
  }
  PlacePicture(beginning);
  const bool guided = guidance > 1, masked = !beginning.mask.empty();
  if (guided_ != guided || masked_ != masked) {
    // Other calls a step.
    guided_ = guided, masked_ = masked;
    recordings_ = {};
    features_ = {};
    predictions_ = {};
  }
  ProjectContexts();
  next_ = 0;
}

void UnetLoop::ProjectContexts() {
  for (int negative = guided_; negative >= 0; --negative) {
    const auto side = static_cast<size_t>(negative);
    Tensor made = contexts_[side];
    if (project_context_ != nullptr) made = (*project_context_)(made, unet_->weights()).cast<Tensor>();
    if (guided_ && both_.has_value()) {
      CopyToHalf(made, 1 - side, both_->prompts);
    } else if (project_context_ != nullptr) {
      prompts_[side].CopyFrom(made);
    }
  }
}

void UnetLoop::PlacePicture(const Beginning& beginning) {
  const auto upload = [](Tensor* tensor, const std::vector<float>& numbers) {
    tensor->CopyFromBytes(numbers.data(), numbers.size() * sizeof(float));
  };
  if (surroundings_.has_value()) {
    upload(&*surroundings_, beginning.surroundings);
    const bool projects = project_surroundings_ != nullptr;
    projected_->CopyFrom(projects ? (*project_surroundings_)(*surroundings_, unet_->weights()).cast<Tensor>()
                                  : *surroundings_);
  }
  if (beginning.mask.empty()) return;
  if (!kept_.has_value()) {
    const std::vector<int64_t> shape(latents_->shape, latents_->shape + latents_->ndim);
    kept_ = Kept{unet_->Kernel("keep_picture" + size_.suffix), EmptyTensor({shape, "float32"}, device_),
                 EmptyTensor({shape, "float32"}, device_),
                 EmptyTensor({{shape[2], shape[3]}, "float32"}, device_)};
  }
  upload(&kept_->picture, beginning.picture), upload(&kept_->noise, beginning.noise);
  upload(&kept_->mask, beginning.mask);
}

void UnetLoop::EmbedTimes(size_t first) {
  const auto begin = schedule_.begin() + static_cast<ptrdiff_t>(first);
  std::vector<float> wanted(begin, begin + kTimesAtOnce);
  if (wanted == embedded_) return;
  Tensor block = EmptyTensor({{kTimesAtOnce}, "float32"}, device_);
  DLTensor given = *timesteps_.operator->();
  given.ndim = 1, given.shape = block->shape, given.strides = nullptr;
  given.byte_offset = first * sizeof(float);
  Tensor::CopyFromTo(&given, const_cast<DLTensor*>(block.operator->()));
  times_.CopyFrom(embed_time_ == nullptr ? block : (*embed_time_)(block, unet_->weights()).cast<Tensor>());
  embedded_ = std::move(wanted);
}

void UnetLoop::PlaceNoise() {
  if (!noises_.has_value()) return;
  const auto numbers = static_cast<size_t>(noise_.numel());
  const size_t first = next_ * numbers;
  // The last step adds none.
  if (first + numbers > static_cast<size_t>(noises_->numel())) return;
  DLTensor given = *noises_->operator->();
  given.ndim = noise_->ndim, given.shape = noise_->shape, given.strides = nullptr;
  given.byte_offset = first * sizeof(float);
  Tensor::CopyFromTo(&given, const_cast<DLTensor*>(noise_.operator->()));
}

bool UnetLoop::Enqueue(bool is_full) {
  if (next_ % static_cast<size_t>(kTimesAtOnce) == 0) EmbedTimes(next_);
  PlaceNoise();
  ++next_;
  if (!replay_) {
    Launch(is_full);
    return false;
  }
  auto& recording = recordings_[is_full];
  const bool recorded = recording != nullptr;
  if (!recorded) {
    // A new recording of full steps leaves its features elsewhere.
    if (is_full) recordings_[false].reset();
    // Every call of the UNet writes all of its storage before it reads it: both kinds of steps share it.
    recording = opencl::Recording::Record(*device_.opencl(), [&] { Launch(is_full); }, this);
  }
  recording->Replay();
  return recorded;
}

Any UnetLoop::Call(const tvm::ffi::Function& function, const Tensor& prompt,
                   const std::vector<Any>& features) {
  std::vector<tvm::ffi::AnyView> arguments = {latents_, time_, prompt};
  if (projected_.has_value()) arguments.push_back(*projected_);
  arguments.insert(arguments.end(), features.begin(), features.end());
  arguments.push_back(unet_->weights());
  Any result;
  function.CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result);
  return result;
}

void UnetLoop::Predict(bool is_full, size_t side, const tvm::ffi::Function& full,
                       const tvm::ffi::Function& cached, const Tensor& prompt) {
  Any& prediction = predictions_[is_full][side];
  prediction = Any();
  if (is_full) {
    features_[side].clear();
    const auto outputs = Call(full, prompt, {}).cast<tvm::ffi::Array<Any>>();
    prediction = outputs[0];
    features_[side].assign(outputs.begin() + 1, outputs.end());
  } else {
    prediction = Call(cached, prompt, features_[side]);
  }
}

void UnetLoop::Launch(bool is_full) {
  next_step_(times_, row_, time_);
  const auto& predictions = predictions_[is_full];
  const auto prediction = [&](size_t side) { return predictions[side].cast<Tensor>(); };
  if (guided_ && both_.has_value()) {
    Predict(is_full, 0, both_->full, both_->cached, both_->prompts);
    both_->guide_both_and_step(latents_, prediction(0), history_, noise_, table_, row_);
  } else if (guided_) {
    // The negative prompt first, as the sampler's kernel takes them.
    for (const size_t side : {1, 0}) Predict(is_full, side, full_, cached_, prompts_[side]);
    guide_and_step_(latents_, prediction(1), prediction(0), history_, noise_, table_, row_);
  } else {
    Predict(is_full, 0, full_, cached_, prompts_[0]);
    step_(latents_, prediction(0), history_, noise_, table_, row_);
  }
  if (masked_) kept_->keep_picture(latents_, kept_->picture, kept_->noise, kept_->mask, table_, row_);
}

}  // namespace ddimcache::session
