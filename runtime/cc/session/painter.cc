#include "painter.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <string>

#include "noise.h"

namespace ddimcache::session {
namespace {

using tvm::ffi::Any;
using tvm::runtime::Tensor;

// Of a mask's pixels: 0.5, as diffusers has it.
constexpr uint8_t kLeastWhite = 128;
constexpr uint64_t kLargestSeed = (uint64_t{1} << 63) - 1;

// Of the steps behind the first, or of the first alone.
std::optional<double> Typical(std::vector<double> seconds) {
  if (seconds.empty()) return std::nullopt;
  if (seconds.size() > 1) seconds.erase(seconds.begin());
  std::sort(seconds.begin(), seconds.end());
  const size_t middle = seconds.size() / 2;
  return seconds.size() % 2 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
}

[[noreturn]] void Refuse(const std::string& problem, const std::string& where,
                         const std::string& remedy = "") {
  throw Failure("UsageError", problem, where, remedy);
}

bool AllFinite(const std::vector<float>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float number) { return std::isfinite(number); });
}

// The part of a tensor with a leading batch that belongs to one picture.
DLTensor Slice(const Tensor& batch, int64_t picture, std::vector<int64_t>* shape) {
  DLTensor slice = *batch.operator->();
  shape->assign(slice.shape, slice.shape + slice.ndim);
  (*shape)[0] = 1;
  slice.shape = shape->data();
  slice.strides = nullptr;
  slice.byte_offset += static_cast<uint64_t>(picture) * tvm::ffi::GetDataSize(slice);
  return slice;
}

// The mask where latents are, 1 for what is drawn anew: the pixel in the corner of each of their cells.
std::vector<float> MaskOfLatents(const std::vector<uint8_t>& mask, const PictureSize& size) {
  std::vector<float> cells;
  for (int64_t y = 0; y < size.latent_height; ++y) {
    for (int64_t x = 0; x < size.latent_width; ++x) {
      const int64_t row = y * size.height / size.latent_height;
      const int64_t column = x * size.width / size.latent_width;
      const uint8_t pixel = mask[static_cast<size_t>(row * size.width + column)];
      cells.push_back(pixel >= kLeastWhite ? 1.0F : 0.0F);
    }
  }
  return cells;
}

void CheckMask(const Request& request, const PictureSize& size) {
  if (request.image.empty()) {
    Refuse("says where a picture is drawn anew, and there is none", "--mask", "give --image as well");
  }
  const auto expected = static_cast<uint64_t>(size.width * size.height);
  if (request.mask.size() != expected) {
    Refuse(
        std::to_string(request.mask.size()) + " bytes, a mask of this size has " + std::to_string(expected),
        "--mask");
  }
  const std::vector<float> cells = MaskOfLatents(request.mask, size);
  if (std::none_of(cells.begin(), cells.end(), [](float cell) { return cell != 0; })) {
    Refuse("leaves nothing to draw", "--mask",
           "make white what is to be drawn anew, in parts larger than " +
               std::to_string(size.width / size.latent_width) + " pixels");
  }
}

void CheckImage(const Request& request, const Manifest& manifest, const PictureSize& size) {
  if (!manifest.takes_images()) {
    Refuse("the bundle has no image encoder", "--image", "compile the model with --image-to-image");
  }
  const uint64_t expected = manifest.image(size).bytes() / static_cast<uint64_t>(manifest.batch);
  if (request.image.size() != expected) {
    Refuse(std::to_string(request.image.size()) + " bytes, a picture of this size has " +
               std::to_string(expected),
           "--image");
  }
  if (!request.latents.empty()) {
    Refuse("a picture is drawn on with noise of the seed", "initial latents", "give a seed instead");
  }
  StepsTaken(request.steps, request.strength);
}

}  // namespace

std::optional<double> StrengthOf(const Request& request) {
  return request.image.empty() ? std::nullopt : std::optional(request.strength);
}

void CheckRequest(const Request& request, const Manifest& manifest, const PictureSize& size) {
  const auto length = static_cast<size_t>(manifest.context.shape[1]);
  const bool guided = request.guidance > 1;
  for (const auto* ids : {&request.ids, &request.negative_ids}) {
    if (ids == &request.negative_ids && !guided && ids->empty()) continue;
    if (ids->size() != length) {
      Refuse(std::to_string(ids->size()) + " token ids, the text encoder takes " + std::to_string(length),
             ids == &request.ids ? "prompt" : "negative prompt");
    }
  }
  if (request.steps < 1 || request.steps > kMostSteps) {
    Refuse(std::to_string(request.steps) + " is outside 1 … " + std::to_string(kMostSteps), "--steps");
  }
  if (request.cache_interval < 1) {
    Refuse(std::to_string(request.cache_interval) + " is below 1", "--cache-interval", "1 is no cache");
  }
  if (!(std::isfinite(request.guidance) && request.guidance >= 0)) {
    Refuse(std::to_string(request.guidance) + " is no finite number from 0 up", "--guidance");
  }
  if (!request.image.empty()) CheckImage(request, manifest, size);
  if (!request.mask.empty()) CheckMask(request, size);
  if (manifest.inpaints && request.mask.empty()) {
    Refuse("the model fills in a part of a picture", "--mask",
           "give a picture with --image, and a mask that is white where it is drawn anew");
  }
  if (request.latents.empty()) {
    if (request.seed > kLargestSeed) {
      Refuse(std::to_string(request.seed) + " is outside 0 … 2⁶³ − 1", "seed");
    }
    return;
  }
  if (SamplerOfName(request.sampler).method == Method::kConsistency) {
    Refuse("lcm adds noise of the seed at every step", "initial latents", "give a seed instead");
  }
  const uint64_t expected = manifest.latents(size).elements();
  if (request.latents.size() != expected) {
    Refuse(std::to_string(request.latents.size()) + " numbers, expected " + std::to_string(expected),
           "initial latents");
  }
  if (!AllFinite(request.latents)) Refuse("holds numbers that are not finite", "initial latents");
}

void Clock::AddStep(bool is_full, double seconds) {
  steps_[is_full].push_back(seconds);
  denoise += seconds;
}

Timings Clock::timings() const {
  Timings timings;
  timings.text = text, timings.denoise = denoise, timings.decode = decode;
  timings.total = Seconds(began_, Now());
  timings.full_steps = static_cast<int>(steps_[true].size());
  timings.cached_steps = static_cast<int>(steps_[false].size());
  timings.full_step = Typical(steps_[true]);
  timings.cached_step = Typical(steps_[false]);
  timings.replayed_steps = replayed;
  return timings;
}

Painter::Painter(const Bundle& bundle, const ComputeDevice& device, Memory mode, bool replay)
    : bundle_(bundle),
      device_(device),
      mode_(mode),
      replay_(replay),
      components_(bundle, device),
      contexts_{EmptyTensor(bundle.manifest.contexts(), device),
                EmptyTensor(bundle.manifest.contexts(), device)},
      size_(&bundle.manifest.sizes.front()) {}

void Painter::SetSize(const PictureSize& size) {
  if (size_ != &size) {
    size_ = &size;
    loop_.reset();
    arena_.reset();
    device_.ReleaseIdle();
  }
  if (arena_ == nullptr && mode_ == Memory::kResident && device_.opencl() != nullptr) {
    arena_ = std::make_unique<opencl::Arena>(*device_.opencl(), size.storages);
  }
}

Picture Painter::Paint(const Request& request, Clock::Instant began, Observer& observer) {
  const SamplingPlan plan =
      Schedule(bundle_.manifest.sampler, {request.sampler, request.steps, request.cache_interval,
                                          request.full_steps, StrengthOf(request), !request.mask.empty()});
  device_.MakeCurrent();
  SetSize(bundle_.manifest.SizeOf(request.width, request.height));
  const opencl::ArenaScope scope(arena_.get());
  Clock clock(began);
  Picture picture;
  EncodeText(request, clock, observer);
  picture.latents = Denoise(request, plan, clock, observer);
  if (!AllFinite(picture.latents)) {
    throw Failure(
        "DeviceError",
        "the latents after " + std::to_string(plan.steps.size()) + " steps hold numbers that are not finite",
        "device " + device_.name(),
        "a kernel overflowed: compile with --weights fp32 and compare, and report the device");
  }
  picture.pixels = Decode(clock, observer);
  observer.Entered(State::kDone, clock.timings());
  return picture;
}

void Painter::EncodeText(const Request& request, Clock& clock, Observer& observer) {
  observer.Entered(State::kText, clock.timings());
  if (mode_ == Memory::kPipelined) components_.Prefetch("unet");
  {
    const auto encoder = components_.Get("text_encoder");
    const auto start = Clock::Now();
    EncodePrompt(*encoder, request.ids, false);
    if (request.guidance > 1) EncodePrompt(*encoder, request.negative_ids, true);
    device_.Synchronise();
    clock.text = Clock::Seconds(start, Clock::Now());
  }
  if (mode_ != Memory::kResident) components_.Release("text_encoder");
}

void Painter::EncodePrompt(const LoadedComponent& encoder, const std::vector<int32_t>& ids, bool negative) {
  const auto length = static_cast<int64_t>(ids.size());
  Tensor tokens = EmptyTensor({{1, length}, "int32"}, device_);
  tokens.CopyFromBytes(ids.data(), ids.size() * sizeof(int32_t));
  const Tensor context = encoder.Call("encode", tokens).cast<Tensor>();
  std::vector<int64_t> shape;
  for (int64_t picture = 0; picture < bundle_.manifest.batch; ++picture) {
    DLTensor slice = Slice(contexts_[negative], picture, &shape);
    Tensor::CopyFromTo(context.operator->(), &slice);
  }
}

Beginning Painter::Begin(const Request& request, const SamplingPlan& plan, Clock& clock) {
  const Manifest& manifest = bundle_.manifest;
  const size_t numbers = manifest.latents(*size_).elements();
  // The seed's numbers: the latents' own noise, what the steps add (the last one adds none), and what the
  // encoder draws of the picture and, where the UNet takes it, of the masked picture.
  const size_t kept = (plan.adds_noise ? plan.steps.size() : 1) * numbers;
  const bool has_image = !request.image.empty();
  const std::vector<float> drawn = request.latents.empty()
                                       ? Noise(request.seed, kept + (has_image + manifest.inpaints) * numbers)
                                       : request.latents;
  const auto part = [&](size_t begin, size_t end) {
    return std::vector<float>(drawn.begin() + static_cast<ptrdiff_t>(begin),
                              drawn.begin() + static_cast<ptrdiff_t>(end));
  };
  Beginning beginning;
  beginning.latents = part(0, numbers);
  beginning.added = part(numbers, kept);
  if (const auto scale = static_cast<float>(plan.noise); scale != 1) {
    for (float& number : beginning.latents) number *= scale;
  }
  if (!has_image) return beginning;
  const bool inpaints = manifest.inpaints, keeps = !request.mask.empty() && !inpaints;
  if (plan.picture != 0 || keeps) {
    beginning.picture = EncodeImage(request.image, {}, part(kept, kept + numbers), clock);
    const auto scale = static_cast<float>(plan.picture);
    for (size_t index = 0; index < numbers; ++index) {
      beginning.latents[index] += scale * beginning.picture[index];
    }
  }
  if (keeps) {
    beginning.noise = part(0, numbers);
    beginning.mask = MaskOfLatents(request.mask, *size_);
  }
  if (inpaints) {
    const std::vector<float> masked =
        EncodeImage(request.image, request.mask, part(kept + numbers, drawn.size()), clock);
    const std::vector<float> cells = MaskOfLatents(request.mask, *size_);
    const auto one = static_cast<ptrdiff_t>(numbers) / manifest.batch;
    for (auto from = masked.begin(); from != masked.end(); from += one) {
      beginning.surroundings.insert(beginning.surroundings.end(), cells.begin(), cells.end());
      beginning.surroundings.insert(beginning.surroundings.end(), from, from + one);
    }
  }
  if (mode_ != Memory::kResident) components_.Release("vae_encoder");
  return beginning;
}

std::vector<float> Painter::EncodeImage(const std::vector<uint8_t>& image, const std::vector<uint8_t>& mask,
                                        const std::vector<float>& noise, Clock& clock) {
  const Manifest& manifest = bundle_.manifest;
  std::vector<float> latents(noise.size());
  const auto encoder = components_.Get("vae_encoder");
  const auto start = Clock::Now();
  std::vector<uint8_t> pictures, holes(manifest.hole(*size_).bytes(), 0);
  for (int64_t picture = 0; picture < manifest.batch; ++picture) {
    pictures.insert(pictures.end(), image.begin(), image.end());
    const auto hole = holes.begin() + picture * static_cast<ptrdiff_t>(mask.size());
    std::transform(mask.begin(), mask.end(), hole, [](uint8_t pixel) { return pixel >= kLeastWhite; });
  }
  const auto uploaded = [&](const TensorSpec& spec, const void* bytes) {
    Tensor tensor = EmptyTensor(spec, device_);
    tensor.CopyFromBytes(bytes, spec.bytes());
    return tensor;
  };
  const Tensor encoded =
      encoder
          ->Call("encode" + size_->suffix, uploaded(manifest.image(*size_), pictures.data()),
                 uploaded(manifest.hole(*size_), holes.data()),
                 uploaded(manifest.latents(*size_), noise.data()))
          .cast<Tensor>();
  encoded.CopyToBytes(latents.data(), latents.size() * sizeof(float));
  clock.text += Clock::Seconds(start, Clock::Now());
  return latents;
}

std::vector<float> Painter::Denoise(const Request& request, const SamplingPlan& plan, Clock& clock,
                                    Observer& observer) {
  const Manifest& manifest = bundle_.manifest;
  const Beginning beginning = Begin(request, plan, clock);
  if (loop_ == nullptr) {
    loop_ =
        std::make_unique<UnetLoop>(manifest, *size_, components_.Get("unet"), device_, contexts_, replay_);
  }
  loop_->Begin(beginning, plan.steps, request.guidance);
  observer.Entered(State::kDenoise, clock.timings());
  try {
    RunSteps(plan.steps, clock, observer);
  } catch (...) {
    // What was enqueued still uses what the next image writes to.
    device_.Synchronise();
    throw;
  }
  return ReadLatents();
}

void Painter::RunSteps(const std::vector<Step>& steps, Clock& clock, Observer& observer) {
  struct Running {
    Marker marker;
    bool is_full;
  };
  // The device has one step to do while the next is enqueued; the CPU does a step at once.
  const size_t most_running = device_.opencl() != nullptr ? 1 : 0;
  std::deque<Running> running;
  auto last = Clock::Now();
  int done = 0;
  const auto settle = [&](size_t most) {
    while (running.size() > most) {
      running.front().marker.Wait();
      const auto now = Clock::Now();
      clock.AddStep(running.front().is_full, Clock::Seconds(last, now));
      last = now;
      running.pop_front();
      observer.StepsDone(++done, clock.timings());
    }
  };
  bool seen[2] = {false, false};
  for (size_t index = 0; index < steps.size(); ++index) {
    if (observer.Cancelled()) {
      throw Failure(
          "CancelledError",
          "cancelled after " + std::to_string(done) + " of " + std::to_string(steps.size()) + " steps", "");
    }
    if (mode_ == Memory::kPipelined && index >= steps.size() - (steps.size() + 3) / 4) {
      components_.Prefetch("vae_decoder");
    }
    const bool is_full = steps[index].is_full;
    const bool is_first = !seen[is_full];
    seen[is_full] = true;
    // The first of a kind may compile kernels, which is the time of no other step; and what enqueueing the
    // second takes is not the time of the first.
    if (is_first) settle(0);
    clock.replayed += loop_->Enqueue(is_full);
    running.push_back({Marker(device_), is_full});
    settle(is_first ? 0 : most_running);
    if (observer.WantsPreview()) {
      std::vector<float> latents = ReadLatents();
      settle(0);
      observer.Preview(static_cast<int>(index) + 1, std::move(latents));
    }
  }
  settle(0);
}

std::vector<float> Painter::ReadLatents() const {
  std::vector<float> latents(bundle_.manifest.latents(*size_).elements());
  loop_->latents().CopyToBytes(latents.data(), latents.size() * sizeof(float));
  return latents;
}

std::vector<uint8_t> Painter::Decode(Clock& clock, Observer& observer) {
  observer.Entered(State::kDecode, clock.timings());
  const Tensor latents = loop_->latents();
  if (mode_ != Memory::kResident) loop_.reset();
  if (mode_ == Memory::kLoadOnUse) components_.Release("unet");
  std::vector<uint8_t> pixels(bundle_.manifest.image(*size_).bytes());
  {
    const auto decoder = components_.Get("vae_decoder");
    if (mode_ == Memory::kPipelined) device_.ReleaseIdle();
    const auto start = Clock::Now();
    const Tensor image = decoder->Call("decode" + size_->suffix, latents).cast<Tensor>();
    image.CopyToBytes(pixels.data(), pixels.size());
    clock.decode = Clock::Seconds(start, Clock::Now());
  }
  if (mode_ != Memory::kResident) components_.Release("vae_decoder");
  return pixels;
}

}  // namespace ddimcache::session
