// The deterministic DDIM sampler (Song et al., ICLR 2021, formula 12 with η = 0) as plain numbers; its
// formulas are in docs/architecture.md. Timesteps are those of diffusers' DDIMScheduler.
#pragma once

#include <vector>

#include "manifest.h"

namespace ddimcache::session {

// x0 = clamp(p x + q m, ±clip), e = r x + s m, x' = a x0 + b e
struct StepCoefficients {
  double p, q, r, s, clip, a, b;
};

// The clip of a step that clamps nothing: float32's range, to the sampler's kernels.
inline constexpr double kNoClip = 3.4e38;
inline constexpr int kMostSteps = 1000;

struct Step {
  int64_t timestep = 0;
  StepCoefficients coefficients = {};
  // Whether the whole UNet runs and the cached feature is renewed.
  bool is_full = true;
};

// Every `cache_interval`-th step is full, or, where there are any, the steps in `full_steps` and no others.
//
// Throws Failure of kind UsageError: `steps` outside 1 … num_train_timesteps, an interval below 1, full steps
// that do not rise from step 0 to one of the steps, or a timestep at which the network's prediction says
// nothing about the picture.
std::vector<Step> Schedule(const SamplerConstants& constants, int steps, int cache_interval,
                           const std::vector<int>& full_steps = {});

}  // namespace ddimcache::session
