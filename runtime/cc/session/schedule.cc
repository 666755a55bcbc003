// Compiled with -ffp-contract=off, so that a phone takes the same steps as the machine that it is compared
// with.
#include "schedule.h"

#include <algorithm>
#include <cmath>

#include "session.h"

namespace ddimcache::session {
namespace {

[[noreturn]] void Refuse(const std::string& problem, const std::string& where, const std::string& remedy) {
  throw Failure("UsageError", problem, where, remedy);
}

// Most noise first. Sums are formed as numpy's linspace and arange form them, so that halves round alike.
std::vector<int64_t> Timesteps(const SamplerConstants& constants, int steps) {
  const int64_t total = constants.num_train_timesteps;
  std::vector<int64_t> timesteps(static_cast<size_t>(steps));
  for (int i = 0; i < steps; ++i) {
    int64_t& timestep = timesteps[static_cast<size_t>(i)];
    const int64_t ascending = steps - 1 - i;
    if (constants.timestep_spacing == "leading") {
      timestep = ascending * (total / steps) + constants.steps_offset;
    } else if (constants.timestep_spacing == "linspace") {
      const double width = steps > 1 ? static_cast<double>(total - 1) / (steps - 1) : 0.0;
      const bool last = steps > 1 && ascending == steps - 1;
      timestep =
          last ? total - 1 : static_cast<int64_t>(std::nearbyint(static_cast<double>(ascending) * width));
    } else {
      const double start = static_cast<double>(total);
      const double width = (start + -start / steps) - start;
      timestep = static_cast<int64_t>(std::nearbyint(start + i * width)) - 1;
    }
  }
  return timesteps;
}

double NonZero(double value, int64_t timestep, const char* reason) {
  if (value == 0) {
    Refuse("the sampler cannot start from timestep " + std::to_string(timestep) + ": " + reason, "--steps",
           "choose a number of steps that leaves this timestep out");
  }
  return value;
}

// Towards timestep − num_train_timesteps / steps for every spacing, as diffusers' step goes; below 0 the
// final share of signal stands in. A timestep beyond the table is given its last entry: with as many steps as
// training had, steps_offset asks for it once, and diffusers ends there.
StepCoefficients Coefficients(const SamplerConstants& constants, int64_t timestep, int steps) {
  const int64_t total = constants.num_train_timesteps;
  const auto signal_at = [&](int64_t at) {
    return constants.alphas_cumprod[static_cast<size_t>(std::min(at, total - 1))];
  };
  const int64_t next = timestep - total / steps;
  const double signal = signal_at(timestep);
  const double signal_next = next >= 0 ? signal_at(next) : constants.final_alpha_cumprod;
  const double root_signal = std::sqrt(signal), root_noise = std::sqrt(1.0 - signal);
  StepCoefficients c = {};
  if (constants.prediction_type == "v_prediction") {
    c.p = root_signal, c.q = -root_noise, c.r = root_noise, c.s = root_signal;
  } else if (constants.prediction_type == "epsilon") {
    const double divisor =
        NonZero(root_signal, timestep, "no signal is left there, and the model predicts the noise");
    c.p = 1.0 / divisor, c.q = -root_noise / divisor, c.r = 0.0, c.s = 1.0;
  } else {
    const double divisor =
        NonZero(root_noise, timestep, "no noise is left there, and the model predicts the picture");
    c.p = 0.0, c.q = 1.0, c.r = 1.0 / divisor, c.s = -root_signal / divisor;
  }
  c.clip = constants.clip_sample ? constants.clip_sample_range : kNoClip;
  c.a = std::sqrt(signal_next), c.b = std::sqrt(1.0 - signal_next);
  return c;
}

void CheckFullSteps(const std::vector<int>& full_steps, int steps) {
  int least = 0;
  for (const int step : full_steps) {
    if (least == 0 && step != 0) {
      Refuse("the first is " + std::to_string(step), "full steps",
             "begin with 0: before it no feature is there to reuse");
    }
    if (step < least || step >= steps) {
      Refuse(
          std::to_string(step) + " is not among " + std::to_string(least) + " … " + std::to_string(steps - 1),
          "full steps", "name steps of the image, each once, in rising order");
    }
    least = step + 1;
  }
}

}  // namespace

std::vector<Step> Schedule(const SamplerConstants& constants, int steps, int cache_interval,
                           const std::vector<int>& full_steps) {
  if (cache_interval < 1) {
    Refuse(std::to_string(cache_interval) + " is not a cache interval", "--cache-interval", "use 1 or more");
  }
  if (steps < 1 || steps > constants.num_train_timesteps) {
    Refuse(std::to_string(steps) + " steps cannot be taken", "--steps",
           "this model takes 1 to " + std::to_string(constants.num_train_timesteps));
  }
  CheckFullSteps(full_steps, steps);
  std::vector<Step> schedule;
  auto next_full = full_steps.begin();
  for (const int64_t timestep : Timesteps(constants, steps)) {
    const auto index = static_cast<int>(schedule.size());
    bool is_full = full_steps.empty() && index % cache_interval == 0;
    if (next_full != full_steps.end() && *next_full == index) {
      is_full = true;
      ++next_full;
    }
    schedule.push_back({timestep, Coefficients(constants, timestep, steps), is_full});
  }
  return schedule;
}

}  // namespace ddimcache::session
