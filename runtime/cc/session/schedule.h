// What the steps of a sampler multiply, as plain numbers; the formulas are in docs/architecture.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "noise_schedule.h"

namespace ddimcache::session {

// x0 = clamp(p x + q m, ±clip), e = r x + s m, x' = a x0 + b e + c (the x0 before) + d (new noise)
struct StepCoefficients {
  double p, q, r, s, clip, a, b, c, d;
};

// The clip of a step that clamps nothing: float32's range, to the sampler's kernels.
inline constexpr double kNoClip = 3.4e38;
inline constexpr int kMostSteps = 1000;

struct Step {
  double timestep = 0;
  StepCoefficients coefficients = {};
  // What a mask keeps of a picture is so much of it and so much of the first noise behind the step: what the
  // next one begins with, and at the end the picture alone.
  double kept_picture = 1, kept_noise = 0;
  // Whether the whole UNet runs and the cached feature is renewed.
  bool is_full = true;
};

struct Sampling {
  std::string sampler = "ddim";
  int steps = 50;
  // Every `cache_interval`-th step is full, or, where there are any, the steps in `full_steps` and no others.
  int cache_interval = 1;
  std::vector<int> full_steps = {};
  // Where the image begins with a picture: the share of the steps that is taken, the last ones. Intervals and
  // full steps are of these.
  std::optional<double> strength = std::nullopt;
  // Only a part of the picture is drawn anew. At a strength of 1 nothing of it is in what that begins with.
  bool masked = false;
};

struct SamplingPlan {
  std::vector<Step> steps;
  // The latents begin as so much unit noise, and so much of the picture's latents where there is one.
  double noise = 1, picture = 0;
  // Steps other than the last add noise of their own.
  bool adds_noise = false;
};

// How many of the steps are taken. Throws Failure of kind UsageError for a strength that is no share, or none
// of the steps.
int StepsTaken(int steps, std::optional<double> strength);

// Throws Failure of kind UsageError: an unknown sampler, or one that the bundle does not have; steps outside
// 1 … num_train_timesteps, or more than the sampler takes; an interval below 1; full steps that do not rise
// from step 0 to one of the steps; cached steps where the sampler has none; or a timestep at which the
// network's prediction says nothing about the picture.
SamplingPlan Schedule(const SamplerConstants& constants, const Sampling& sampling);

}  // namespace ddimcache::session
