// Compiled with -ffp-contract=off, so that a phone takes the same steps as the machine that it is compared
// with.
#include "noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "session.h"

namespace ddimcache::session {
namespace {

struct Name {
  const char* text;
  Sampler sampler;
};

// runtime/sampler.py has the same list.
constexpr Name kNames[] = {
    {"ddim", {Method::kDdim, false}},
    {"euler", {Method::kEuler, false}},
    {"euler-karras", {Method::kEuler, true}},
    {"dpm++2m", {Method::kSolver, false}},
    {"dpm++2m-karras", {Method::kSolver, true}},
    {"lcm", {Method::kConsistency, false}},
};

// Stands for no signal at all where a noise level, which divides by it, has to be finite.
constexpr double kLeastSignalShare = 0x1p-24;

[[noreturn]] void RefuseVariant() {
  throw Failure("UsageError",
                "this model cannot be sampled so: its scheduler's configuration asks for a variant that is "
                "not supported",
                "--sampler", "use another one, such as ddim");
}

Moment OfShare(double timestep, double share) {
  return {timestep, std::sqrt(share), std::sqrt(1.0 - share)};
}

Moment OfSigma(double timestep, double sigma) {
  const double root = std::sqrt(sigma * sigma + 1.0);
  return {timestep, 1.0 / root, sigma / root};
}

// numpy's arange(total, 0, -total / steps), rounded, less one. Sums are formed as numpy forms them, so that
// halves round alike.
double Trailing(int64_t total, int steps, int index) {
  const auto start = static_cast<double>(total);
  const double width = (start + -start / steps) - start;
  return std::nearbyint(start + index * width) - 1;
}

// numpy's linspace(0, total - 1, intervals + 1)[index].
double Even(int64_t total, int intervals, int64_t index) {
  if (intervals > 0 && index == intervals) return static_cast<double>(total - 1);
  const double width = intervals > 0 ? static_cast<double>(total - 1) / intervals : 0.0;
  return static_cast<double>(index) * width;
}

// Towards timestep − num_train_timesteps / steps for every spacing, as diffusers' step goes; below 0 the
// final share of signal stands in. A timestep beyond the table is given its last entry: with as many steps as
// training had, steps_offset asks for it once, and diffusers ends there.
std::vector<Leg> DdimLegs(const SamplerConstants& constants, int steps) {
  const int64_t total = constants.num_train_timesteps;
  const auto moment = [&](int64_t at) {
    const double share = at >= 0 ? constants.alphas_cumprod[static_cast<size_t>(std::min(at, total - 1))]
                                 : constants.final_alpha_cumprod;
    return OfShare(static_cast<double>(at), share);
  };
  std::vector<Leg> legs;
  for (int index = 0; index < steps; ++index) {
    const int64_t ascending = steps - 1 - index;
    int64_t timestep = 0;
    if (constants.timestep_spacing == "leading") {
      timestep = ascending * (total / steps) + constants.steps_offset;
    } else if (constants.timestep_spacing == "linspace") {
      timestep = static_cast<int64_t>(std::nearbyint(Even(total, steps - 1, ascending)));
    } else {
      timestep = static_cast<int64_t>(Trailing(total, steps, index));
    }
    legs.push_back({moment(timestep), moment(timestep - total / steps)});
  }
  return legs;
}

// The noise levels of the training steps, rising, of latents picture + sigma · noise. Rounded as diffusers
// rounds them, because a timestep that is interpolated between them goes through a sine.
std::vector<double> TrainingSigmas(const SamplerConstants& constants) {
  std::vector<double> sigmas;
  for (const double share : constants.alphas_cumprod) {
    const auto signal = static_cast<float>(share == 0 ? kLeastSignalShare : share);
    sigmas.push_back(std::sqrt((1.0F - signal) / signal));
  }
  return sigmas;
}

double SigmaAt(const std::vector<double>& sigmas, double timestep) {
  const auto last = static_cast<double>(sigmas.size() - 1);
  const double at = std::clamp(timestep, 0.0, last);
  const auto below = static_cast<size_t>(at);
  if (below + 1 >= sigmas.size()) return sigmas.back();
  return sigmas[below] + (sigmas[below + 1] - sigmas[below]) * (at - static_cast<double>(below));
}

// Between training steps by the logarithm.
double TimestepOf(const std::vector<double>& sigmas, double sigma) {
  if (sigmas.size() < 2) return 0;
  const auto above = std::upper_bound(sigmas.begin(), sigmas.end(), sigma);
  const auto found = static_cast<size_t>(std::max<ptrdiff_t>(above - sigmas.begin() - 1, 0));
  const size_t below = std::min(found, sigmas.size() - 2);
  const auto rounded = [&](size_t at) { return static_cast<float>(std::log(sigmas[at])); };
  const double low = rounded(below), high = rounded(below + 1);
  const double share = std::clamp((low - std::log(std::max(sigma, 1e-10))) / (low - high), 0.0, 1.0);
  return static_cast<double>(below) + share;
}

std::vector<double> KarrasSigmas(double most, double least, int steps) {
  constexpr double kRho = 7.0;
  const double from = std::pow(most, 1 / kRho), to = std::pow(least, 1 / kRho);
  std::vector<double> sigmas;
  for (int index = 0; index < steps; ++index) {
    const double ramp = steps > 1 ? static_cast<double>(index) / (steps - 1) : 0.0;
    sigmas.push_back(std::pow(from + ramp * (to - from), kRho));
  }
  return sigmas;
}

// Timesteps of one of the samplers that go by noise levels. The solver leaves out the least one, for which it
// spaces one step more.
std::vector<double> SigmaTimesteps(const SamplerConstants& constants, const SigmaSampler& settings,
                                   bool leaves_last, int steps) {
  const int64_t total = constants.num_train_timesteps;
  std::vector<double> timesteps;
  for (int index = 0; index < steps; ++index) {
    const int64_t ascending = steps - 1 - index + leaves_last;
    if (settings.timestep_spacing == "leading") {
      const int64_t width = total / (steps + leaves_last);
      timesteps.push_back(static_cast<double>(ascending * width + settings.steps_offset));
    } else if (settings.timestep_spacing == "linspace") {
      const double even = Even(total, steps - 1 + leaves_last, ascending);
      timesteps.push_back(leaves_last ? std::nearbyint(even) : even);
    } else {
      timesteps.push_back(Trailing(total, steps, index));
    }
  }
  return timesteps;
}

std::vector<Leg> SigmaLegs(const SamplerConstants& constants, const SigmaSampler& settings,
                           const Sampler& sampler, int steps) {
  const bool is_solver = sampler.method == Method::kSolver;
  const std::vector<double> training = TrainingSigmas(constants);
  std::vector<double> timesteps = SigmaTimesteps(constants, settings, is_solver, steps), sigmas;
  for (const double timestep : timesteps) sigmas.push_back(SigmaAt(training, timestep));
  if (sampler.karras || settings.karras) {
    if (!settings.allows_karras) RefuseVariant();
    // Between the ends of the steps that they replace, or for the solver of the whole schedule.
    const double most = is_solver ? training.back() : sigmas.front();
    const double least = is_solver ? training.front() : sigmas.back();
    sigmas = KarrasSigmas(most, least, steps);
    for (size_t index = 0; index < sigmas.size(); ++index) {
      const double timestep = TimestepOf(training, sigmas[index]);
      timesteps[index] = is_solver ? std::nearbyint(timestep) : timestep;
    }
  }
  timesteps.push_back(0);
  sigmas.push_back(settings.ends_at_zero ? 0.0 : training.front());
  std::vector<Leg> legs;
  for (size_t index = 0; index + 1 < sigmas.size(); ++index) {
    legs.push_back(
        {OfSigma(timesteps[index], sigmas[index]), OfSigma(timesteps[index + 1], sigmas[index + 1])});
  }
  return legs;
}

// Evenly among the timesteps that the model was distilled for. The last step arrives at the picture itself.
std::vector<Leg> ConsistencyLegs(const SamplerConstants& constants, const ConsistencySampler& settings,
                                 int steps) {
  const int64_t original = settings.original_steps;
  if (steps > original) {
    throw Failure("UsageError", std::to_string(steps) + " steps cannot be taken", "--steps",
                  "with lcm this model takes 1 to " + std::to_string(original));
  }
  const int64_t width = constants.num_train_timesteps / original;
  std::vector<Moment> moments;
  for (int index = 0; index < steps; ++index) {
    const auto skipped = static_cast<int64_t>(index * (static_cast<double>(original) / steps));
    const int64_t timestep = (original - skipped) * width - 1;
    moments.push_back(
        OfShare(static_cast<double>(timestep), constants.alphas_cumprod[static_cast<size_t>(timestep)]));
  }
  moments.push_back({0, 1, 0});
  std::vector<Leg> legs;
  for (size_t index = 0; index + 1 < moments.size(); ++index) {
    legs.push_back({moments[index], moments[index + 1]});
  }
  return legs;
}

template <typename Settings>
const Settings& Found(const std::optional<Settings>& settings) {
  if (!settings.has_value()) RefuseVariant();
  return *settings;
}

}  // namespace

Sampler SamplerOfName(const std::string& name) {
  std::string known;
  for (const auto& [text, sampler] : kNames) {
    if (name == text) return sampler;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw Failure("UsageError", "'" + name + "' is none of: " + known, "--sampler");
}

std::vector<Leg> Legs(const SamplerConstants& constants, const Sampler& sampler, int steps) {
  switch (sampler.method) {
    case Method::kEuler:
      return SigmaLegs(constants, Found(constants.euler), sampler, steps);
    case Method::kSolver:
      return SigmaLegs(constants, Found(constants.dpmpp_2m), sampler, steps);
    case Method::kConsistency:
      return ConsistencyLegs(constants, Found(constants.lcm), steps);
    case Method::kDdim:
      break;
  }
  return DdimLegs(constants, steps);
}

}  // namespace ddimcache::session
