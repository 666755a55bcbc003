// What follows from a manifest: shapes and bytes of what its functions take and return.
#include <algorithm>

#include "manifest.h"
#include "session.h"

namespace ddimcache::session {

uint64_t ItemBytes(const std::string& dtype) {
  if (dtype == "float32" || dtype == "int32") return 4;
  return dtype == "float16" ? 2 : 1;
}

uint64_t TensorSpec::elements() const {
  uint64_t count = 1;
  for (const int64_t extent : shape) count *= static_cast<uint64_t>(extent);
  return count;
}

uint64_t TensorSpec::bytes() const {
  return elements() * ItemBytes(dtype);
}

std::string TensorSpec::text() const {
  std::string list;
  for (const int64_t extent : shape) list += (list.empty() ? "" : ", ") + std::to_string(extent);
  return dtype + "[" + list + "]";
}

TensorSpec TensorSpec::for_both() const {
  TensorSpec both = *this;
  both.shape[0] *= 2;
  return both;
}

uint64_t ComponentSpec::weights_bytes() const {
  uint64_t total = 0;
  for (const Weight& weight : weights) total += weight.spec.bytes();
  return total;
}

uint64_t ComponentSpec::output_bytes() const {
  uint64_t most = 0;
  for (const auto& entry : functions) {
    uint64_t returned = 0;
    for (const TensorSpec& output : entry.second.outputs) returned += output.bytes();
    most = std::max(most, returned);
  }
  return most;
}

std::string PictureSize::text() const {
  return std::to_string(width) + "x" + std::to_string(height);
}

uint64_t PictureSize::feature_bytes() const {
  uint64_t total = 0;
  for (const TensorSpec& feature : features) total += feature.bytes();
  return total;
}

uint64_t PictureSize::storage_bytes() const {
  uint64_t total = 0;
  for (const uint64_t bytes : storages) total += bytes;
  return total;
}

const PictureSize& Manifest::SizeOf(int64_t width, int64_t height) const {
  if (width == 0 && height == 0) return sizes.front();
  std::string known;
  for (const PictureSize& size : sizes) {
    if (size.width == width && size.height == height) return size;
    known += (known.empty() ? "" : ", ") + size.text();
  }
  throw Failure("UsageError",
                "the bundle makes no pictures of " + std::to_string(width) + "x" + std::to_string(height) +
                    ", only of " + known,
                "--size", "take one of these, or compile the model again with that --size");
}

TensorSpec Manifest::latents(const PictureSize& size) const {
  return {{batch, latent_channels, size.latent_height, size.latent_width}, "float32"};
}

TensorSpec Manifest::image(const PictureSize& size) const {
  return {{batch, size.height, size.width, 3}, "uint8"};
}

TensorSpec Manifest::hole(const PictureSize& size) const {
  return {{batch, size.height, size.width}, "uint8"};
}

TensorSpec Manifest::surroundings(const PictureSize& size) const {
  return {{batch, 1 + latent_channels, size.latent_height, size.latent_width}, "float32"};
}

TensorSpec Manifest::contexts() const {
  TensorSpec spec = context;
  spec.shape[0] = batch;
  return spec;
}

std::map<std::string, FunctionSpec> Manifest::once() const {
  std::map<std::string, FunctionSpec> contract;
  const auto& functions = components.at("unet").functions;
  const auto add = [&](const std::string& name, const TensorSpec& given, std::vector<int64_t> made) {
    const auto found = functions.find(name);
    if (found == functions.end()) return;
    const auto& outputs = found->second.outputs;
    made.push_back(outputs.empty() || outputs[0].shape.empty() ? 1 : outputs[0].shape.back());
    contract[name] = {{given}, {{made, context.dtype}}};
  };
  add("embed_time", {{kTimesAtOnce}, "float32"}, {kTimesAtOnce});
  const TensorSpec given = contexts();
  add("project_context", given, {given.shape[0], given.shape[1]});
  if (inpaints) {
    for (const PictureSize& size : sizes) {
      add("project_surroundings" + size.suffix, surroundings(size),
          {batch, size.latent_height, size.latent_width});
    }
  }
  return contract;
}

TensorSpec Manifest::time() const {
  const auto found = once();
  const auto embed = found.find("embed_time");
  if (embed == found.end()) return {{1}, "float32"};
  return {{1, embed->second.outputs[0].shape.back()}, context.dtype};
}

TensorSpec Manifest::prompt() const {
  const auto found = once();
  const auto project = found.find("project_context");
  return project == found.end() ? contexts() : project->second.outputs[0];
}

TensorSpec Manifest::projected(const PictureSize& size) const {
  const auto found = once();
  const auto project = found.find("project_surroundings" + size.suffix);
  return project == found.end() ? surroundings(size) : project->second.outputs[0];
}

}  // namespace ddimcache::session
