#include "memory_plan.h"

#include <algorithm>
#include <string>

namespace ddimcache::session {
namespace {

// Fastest first.
constexpr struct {
  Memory mode;
  const char* name;
} kModes[] = {
    {Memory::kResident, "resident"},
    {Memory::kPipelined, "pipelined"},
    {Memory::kLoadOnUse, "load-on-use"},
};

}  // namespace

uint64_t EstimateBytes(const Manifest& manifest, Memory mode) {
  const ComponentSpec& text = manifest.components.at("text_encoder");
  const ComponentSpec& unet = manifest.components.at("unet");
  const ComponentSpec& decoder = manifest.components.at("vae_decoder");
  const uint64_t text_weights = text.weights_bytes(), text_work = text.activation_bytes;
  const uint64_t unet_weights = unet.weights_bytes();
  const uint64_t decoder_weights = decoder.weights_bytes(), decoder_work = decoder.activation_bytes;
  // Full and cached steps are recorded with storage of their own, each keeps its predictions, and full steps
  // one feature for either prompt; the rest are latents and contexts.
  const uint64_t unet_work = 2 * unet.activation_bytes + 2 * manifest.feature.bytes() +
                             5 * manifest.latents().bytes() + 2 * manifest.contexts().bytes();
  switch (mode) {
    case Memory::kPipelined:
      return unet_weights + std::max({text_weights + text_work, unet_work + decoder_weights,
                                      decoder_weights + decoder_work});
    case Memory::kLoadOnUse:
      return std::max({text_weights + text_work, unet_weights + unet_work, decoder_weights + decoder_work});
    default:
      return text_weights + text_work + unet_weights + unet_work + decoder_weights + decoder_work;
  }
}

Memory ChooseMemory(const Manifest& manifest, uint64_t bytes) {
  for (const auto& entry : kModes) {
    if (EstimateBytes(manifest, entry.mode) <= bytes) return entry.mode;
  }
  throw Failure("UsageError",
                std::to_string(bytes) +
                    " bytes are not enough: loading each part when it is used takes about " +
                    std::to_string(EstimateBytes(manifest, Memory::kLoadOnUse)),
                "--memory-budget", "give more, or compile the model with --weights int8 or a smaller --size");
}

const char* MemoryName(Memory mode) {
  for (const auto& entry : kModes) {
    if (entry.mode == mode) return entry.name;
  }
  return "auto";
}

Memory MemoryOfName(const std::string& name) {
  if (name == "auto") return Memory::kAuto;
  for (const auto& entry : kModes) {
    if (name == entry.name) return entry.mode;
  }
  throw Failure("UsageError", "'" + name + "' is none of: auto, resident, pipelined, load-on-use",
                "--memory");
}

}  // namespace ddimcache::session
