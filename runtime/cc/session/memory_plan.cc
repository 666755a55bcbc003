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

// Storage is handed out in pages, and from the pool a quarter larger than asked for at most.
constexpr uint64_t kRounding = 512 << 10;

uint64_t EstimateAt(const Manifest& manifest, const PictureSize& size, Memory mode) {
  const ComponentSpec& text = manifest.components.at("text_encoder");
  const ComponentSpec& unet = manifest.components.at("unet");
  const ComponentSpec& decoder = manifest.components.at("vae_decoder");
  const auto work = [](uint64_t planned) { return planned + planned / 4 + kRounding; };
  const uint64_t text_weights = text.weights_bytes(), text_work = work(text.activation_bytes);
  const auto work_of = [&](const char* component) { return work(size.activation_bytes.at(component)); };
  const uint64_t unet_weights = unet.weights_bytes();
  const uint64_t decoder_weights = decoder.weights_bytes(), decoder_work = work_of("vae_decoder");
  // It comes and goes before the UNet works, where it does not stay.
  uint64_t encoder_weights = 0, encoder_all = 0;
  if (manifest.takes_images()) {
    encoder_weights = manifest.components.at("vae_encoder").weights_bytes();
    encoder_all = encoder_weights + work_of("vae_encoder");
  }
  // All calls of the UNet share storage, recorded or not. Features and predictions of both prompts are kept,
  // the latter of both kinds of steps; the rest are latents, the picture predicted before, new noise, what is
  // made of the prompts, and the rows of 64 timesteps.
  // A mask keeps a picture's latents and their noise, and is smaller than either.
  const uint64_t latents = manifest.takes_images() ? 11 : 8;
  const uint64_t surroundings =
      manifest.inpaints ? manifest.surroundings(size).bytes() + manifest.projected(size).bytes() : 0;
  const uint64_t kept = surroundings + 2 * size.feature_bytes() + latents * manifest.latents(size).bytes() +
                        (manifest.guides_in_one_call() ? 4 : 2) * manifest.prompt().bytes() +
                        (kTimesAtOnce + 1) * manifest.time().bytes();
  const uint64_t unet_work = work(size.activation_bytes.at("unet")) + kept;
  // Components that stay compute in turns and share storage; what each returns is there besides.
  uint64_t returned = 0;
  for (const auto& [name, component] : manifest.components) returned += component.output_bytes();
  const uint64_t contexts = 2 * manifest.contexts().bytes();
  switch (mode) {
    case Memory::kPipelined:
      return contexts + unet_weights +
             std::max({text_weights + text_work, encoder_all, unet_work + decoder_weights,
                       decoder_weights + decoder_work});
    case Memory::kLoadOnUse:
      return contexts + std::max({text_weights + text_work, encoder_all, unet_weights + unet_work,
                                  decoder_weights + decoder_work});
    default:
      return contexts + text_weights + unet_weights + decoder_weights + encoder_weights + kept +
             work(size.storage_bytes() + returned);
  }
}

}  // namespace

uint64_t EstimateBytes(const Manifest& manifest, Memory mode) {
  uint64_t most = 0;
  for (const PictureSize& size : manifest.sizes) most = std::max(most, EstimateAt(manifest, size, mode));
  return most;
}

Memory ChooseMemory(const Manifest& manifest, Memory mode, uint64_t bytes) {
  if (mode != Memory::kAuto) return mode;
  for (const auto& entry : kModes) {
    if (EstimateBytes(manifest, entry.mode) <= bytes) return entry.mode;
  }
  const uint64_t least = EstimateBytes(manifest, Memory::kLoadOnUse);
  throw Failure("UsageError",
                std::to_string(bytes) +
                    " bytes are not enough: loading each part when it is used takes about " +
                    std::to_string(least),
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
