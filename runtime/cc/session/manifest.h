// The manifest of a bundle: what src/ddimcache/manifest.py defines, read as strictly. Only what the loop
// needs is kept; the rest is checked and dropped.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ddimcache::session {

struct TensorSpec {
  std::vector<int64_t> shape;
  std::string dtype;

  uint64_t elements() const;
  uint64_t bytes() const;
  // "float32[1, 4, 8, 8]"
  std::string text() const;
  // With twice the leading extent: the negative prompt's half, then the prompt's.
  TensorSpec for_both() const;
  bool operator==(const TensorSpec&) const = default;
};

// Bytes of one number: "float32", "float16", "int32", "int8" or "uint8".
uint64_t ItemBytes(const std::string& dtype);

struct FunctionSpec {
  std::vector<TensorSpec> inputs, outputs;
  bool operator==(const FunctionSpec&) const = default;
};

struct Weight {
  std::string name;
  TensorSpec spec;
};

struct ComponentSpec {
  std::string library, weights_file, launches, sources;
  std::vector<Weight> weights;
  std::map<std::string, FunctionSpec> functions;
  // Of the first picture size.
  uint64_t activation_bytes = 0;

  uint64_t weights_bytes() const;
  // Of what a call of a function returns, of the one that returns most.
  uint64_t output_bytes() const;
};

// What a bundle has for one picture size.
struct PictureSize {
  int64_t width = 0, height = 0, latent_width = 0, latent_height = 0;
  // What a full step leaves for the cached ones.
  std::vector<TensorSpec> features;
  std::map<std::string, uint64_t> activation_bytes;
  // Bytes of the buffers that calls of all components use in turns.
  std::vector<uint64_t> storages;
  // Of the calls for both prompts of guidance, "full" and "cached", where there are such functions.
  std::map<std::string, uint64_t> macs_guided;
  // What the names of its functions and of its sampler's kernels end in; nothing for the first size.
  std::string suffix;

  // "640x384"
  std::string text() const;
  uint64_t feature_bytes() const;
  uint64_t storage_bytes() const;
};

// A sampler that goes by noise levels: Euler's, or DPM-Solver++'s.
struct SigmaSampler {
  std::string timestep_spacing;
  int64_t steps_offset = 0;
  bool karras = false, allows_karras = true, ends_at_zero = true;
  bool lower_order_final = true, euler_at_final = false;
};

// That of latent consistency models.
struct ConsistencySampler {
  int64_t original_steps = 0;
  double timestep_scaling = 0;
};

struct SamplerConstants {
  int64_t num_train_timesteps = 0;
  std::vector<double> alphas_cumprod;
  double final_alpha_cumprod = 0;
  std::string prediction_type, timestep_spacing;
  int64_t steps_offset = 0;
  bool clip_sample = false;
  double clip_sample_range = 0, init_noise_sigma = 1;
  // Nothing where the model's scheduler asks for a variant of it that is not supported.
  std::optional<SigmaSampler> euler, dpmpp_2m;
  std::optional<ConsistencySampler> lcm;
};

struct FileEntry {
  uint64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::string model, device_kind, host, tokenizer;
  int64_t latent_channels = 0, batch = 0;
  // The UNet takes a mask and the latents of a masked picture beside its own.
  bool inpaints = false;
  TensorSpec context;
  // The one that is drawn unless another is asked for first.
  std::vector<PictureSize> sizes;
  SamplerConstants sampler;
  std::map<std::string, ComponentSpec> components;
  std::map<std::string, FileEntry> files;

  // Throws Failure of kind UsageError that says which sizes there are; the first for 0 x 0.
  const PictureSize& SizeOf(int64_t width, int64_t height) const;
  TensorSpec latents(const PictureSize& size) const;
  TensorSpec image(const PictureSize& size) const;
  // Where an image encoder does not look at a picture.
  TensorSpec hole(const PictureSize& size) const;
  // Mask and masked picture, [B, 1 + C, h, w].
  TensorSpec surroundings(const PictureSize& size) const;
  // Whether the UNet has functions for both prompts of guidance at once.
  bool guides_in_one_call() const { return !sizes.front().macs_guided.empty(); }
  // Whether a picture can begin with another one: the bundle has an image encoder.
  bool takes_images() const { return components.count("vae_encoder") != 0; }
  // The context once for every picture of the batch.
  TensorSpec contexts() const;
  // What the contract says of the functions that run before the steps, as far as the UNet has them:
  // "embed_time" makes a row for each of 64 timesteps, "project_context" what attention reads of a prompt,
  // "project_surroundings", one a size, what a UNet that inpaints reads of mask and masked picture.
  // How wide their results are is the model's to say.
  std::map<std::string, FunctionSpec> once() const;
  // What the UNet takes of a step: the timestep [1], or a row [1, T] of what embed_time makes.
  TensorSpec time() const;
  // What the UNet takes of a prompt: contexts, or what project_context makes.
  TensorSpec prompt() const;
  // What a UNet that inpaints takes besides: surroundings, or what project_surroundings makes.
  TensorSpec projected(const PictureSize& size) const;
};

inline constexpr int kFormatVersion = 11;
// What the names of functions for both prompts of guidance end in, before a size.
inline constexpr const char* kGuided = "_guided";
// Timesteps that one call of embed_time takes.
inline constexpr int64_t kTimesAtOnce = 64;
inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kCompileAgain = "compile it again with `ddimcache compile`";

// Throws Failure of kind BundleError that names `where` and the first thing wrong: the version, a key, a
// type, a range, or a contradiction between them.
Manifest ParseManifest(std::string_view text, const std::string& where);

// Parts of a manifest by themselves. Both throw JsonProblem.
SamplerConstants ParseSampler(std::string_view text);
std::vector<Weight> ParseWeights(std::string_view text);

}  // namespace ddimcache::session
