// Where on the model's noise schedule the steps of a sampler begin and end. Timesteps and noise levels are
// those of diffusers' schedulers.
#pragma once

#include <string>
#include <vector>

#include "manifest.h"

namespace ddimcache::session {

enum class Method { kDdim, kEuler, kSolver, kConsistency };

struct Sampler {
  Method method = Method::kDdim;
  // Noise levels of Karras et al. (NeurIPS 2022) in place of the model's own spacing.
  bool karras = false;
};

// By the name that a request has. Throws Failure of kind UsageError that lists the names.
Sampler SamplerOfName(const std::string& name);

// Latents there are signal · picture + noise · unit noise, signal² + noise² = 1.
struct Moment {
  double timestep = 0, signal = 0, noise = 0;
};

// A step goes from one moment to another.
struct Leg {
  Moment from, to;
};

// One leg a step, most noise first. Throws Failure of kind UsageError where the bundle does not have the
// sampler or it cannot take so many steps.
std::vector<Leg> Legs(const SamplerConstants& constants, const Sampler& sampler, int steps);

}  // namespace ddimcache::session
