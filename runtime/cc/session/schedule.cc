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

double NonZero(double value, double timestep, const char* reason) {
  if (value == 0) {
    Refuse("the sampler cannot start from timestep " + std::to_string(static_cast<int64_t>(timestep)) + ": " +
               reason,
           "--steps", "choose a number of steps that leaves this timestep out");
  }
  return value;
}

// p, q, r and s: picture and noise from latents and prediction.
StepCoefficients Prediction(const SamplerConstants& constants, const Moment& at) {
  StepCoefficients c = {};
  if (constants.prediction_type == "v_prediction") {
    c.p = at.signal, c.q = -at.noise, c.r = at.noise, c.s = at.signal;
  } else if (constants.prediction_type == "epsilon") {
    const double divisor =
        NonZero(at.signal, at.timestep, "no signal is left there, and the model predicts the noise");
    c.p = 1.0 / divisor, c.q = -at.noise / divisor, c.r = 0.0, c.s = 1.0;
  } else {
    const double divisor =
        NonZero(at.noise, at.timestep, "no noise is left there, and the model predicts the picture");
    c.p = 0.0, c.q = 1.0, c.r = 1.0 / divisor, c.s = -at.signal / divisor;
  }
  c.clip = kNoClip;
  return c;
}

// The second order of DPM-Solver++ (Lu et al., arXiv 2211.01095, algorithm 2): on top of a first-order step,
// half of what the picture changed since the step before, scaled to this step's length in log signal to
// noise.
void AddSecondOrder(const Leg& before, const Leg& leg, StepCoefficients* c) {
  const auto lambda = [](const Moment& at) { return std::log(at.signal) - std::log(at.noise); };
  const double present = lambda(leg.from);
  const double length = lambda(leg.to) - present, length_before = present - lambda(before.from);
  const double decay = (leg.to.noise / leg.to.signal) / (leg.from.noise / leg.from.signal);
  const double weight = 0.5 * leg.to.signal * (1.0 - decay) * (length / length_before);
  c->a += weight, c->c = -weight;
}

// The order of the solver's step: lower at the ends, where there is no picture before or no length. Few steps
// are few of the whole schedule, of which an image that begins with a picture takes the last `taken`.
bool IsSecondOrder(const SigmaSampler& settings, size_t index, size_t taken, int steps) {
  const bool lower_at_end =
      settings.ends_at_zero || settings.euler_at_final || (settings.lower_order_final && steps < 15);
  return index > 0 && !(lower_at_end && index + 1 == taken);
}

// A latent consistency model (Luo et al., arXiv 2310.04378) predicts the picture through its boundary
// condition, c_out · x0 + c_skip · x, and takes new noise to the next moment.
void MakeConsistent(const ConsistencySampler& settings, const Leg& leg, StepCoefficients* c) {
  constexpr double kDeviation = 0.5;
  const double scaled = leg.from.timestep * settings.timestep_scaling;
  const double square = scaled * scaled + kDeviation * kDeviation;
  const double skip = kDeviation * kDeviation / square, out = scaled / std::sqrt(square);
  c->a = leg.to.signal * (out + skip * leg.from.signal);
  c->b = leg.to.signal * skip * leg.from.noise;
  c->d = leg.to.noise;
}

std::vector<StepCoefficients> Coefficients(const SamplerConstants& constants, const Sampler& sampler,
                                           const std::vector<Leg>& legs, int steps) {
  std::vector<StepCoefficients> coefficients;
  for (size_t index = 0; index < legs.size(); ++index) {
    const Leg& leg = legs[index];
    StepCoefficients c = Prediction(constants, leg.from);
    c.a = leg.to.signal, c.b = leg.to.noise;
    if (sampler.method == Method::kDdim && constants.clip_sample) c.clip = constants.clip_sample_range;
    if (sampler.method == Method::kConsistency) MakeConsistent(*constants.lcm, leg, &c);
    if (sampler.method == Method::kSolver && IsSecondOrder(*constants.dpmpp_2m, index, legs.size(), steps)) {
      AddSecondOrder(legs[index - 1], leg, &c);
    }
    for (const double number : {leg.from.timestep, c.p, c.q, c.r, c.s, c.a, c.b, c.c, c.d}) {
      if (std::isfinite(number)) continue;
      Refuse("step " + std::to_string(index) + " of " + std::to_string(legs.size()) +
                 " has no length on this model's noise schedule",
             "--steps", "take fewer");
    }
    coefficients.push_back(c);
  }
  return coefficients;
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

void CheckCache(const Sampling& sampling, const Sampler& sampler, int taken) {
  if (sampler.method != Method::kConsistency) return;
  constexpr const char* kReason = "lcm's few steps are too far apart to reuse each other's features";
  if (sampling.full_steps.empty()) {
    if (sampling.cache_interval > 1) {
      Refuse(kReason, "--cache-interval", "use 1, or another --sampler");
    }
  } else if (sampling.full_steps.size() < static_cast<size_t>(taken)) {
    Refuse(kReason, "full steps", "name all of them, or use another --sampler");
  }
}

// Euler's latents in diffusers are picture + sigma · noise, ours those divided by √(sigma² + 1), which is
// what the UNet takes. It begins with noise of the largest sigma, or of √(sigma² + 1) where timesteps are
// leading. The first sigma is not always the largest: where training ends without signal, 2⁻²⁴ stands for
// none, and the moment before can have less.
double InitialNoise(const SamplerConstants& constants, const Sampler& sampler, const std::vector<Leg>& legs) {
  if (sampler.method == Method::kDdim) return constants.init_noise_sigma;
  if (sampler.method != Method::kEuler) return 1.0;
  double most = 0;
  for (const Leg& leg : legs) most = std::max(most, leg.from.noise / leg.from.signal);
  const bool is_leading = constants.euler->timestep_spacing == "leading";
  return legs.front().from.signal * (is_leading ? std::sqrt(most * most + 1) : most);
}

}  // namespace

int StepsTaken(int steps, std::optional<double> strength) {
  if (!strength.has_value()) return steps;
  if (!(*strength > 0 && *strength <= 1)) {
    Refuse(std::to_string(*strength) + " is no share of the steps", "--strength",
           "use a number above 0, at most 1");
  }
  const int taken = static_cast<int>(steps * *strength);
  if (taken < 1) {
    Refuse("it leaves none of " + std::to_string(steps) + " steps", "--strength", "use more of either");
  }
  return taken;
}

SamplingPlan Schedule(const SamplerConstants& constants, const Sampling& sampling) {
  const int steps = sampling.steps;
  const Sampler sampler = SamplerOfName(sampling.sampler);
  if (sampling.cache_interval < 1) {
    Refuse(std::to_string(sampling.cache_interval) + " is not a cache interval", "--cache-interval",
           "use 1 or more");
  }
  if (steps < 1 || steps > constants.num_train_timesteps) {
    Refuse(std::to_string(steps) + " steps cannot be taken", "--steps",
           "this model takes 1 to " + std::to_string(constants.num_train_timesteps));
  }
  const int taken = StepsTaken(steps, sampling.strength);
  CheckFullSteps(sampling.full_steps, taken);
  CheckCache(sampling, sampler, taken);
  std::vector<Leg> legs = Legs(constants, sampler, steps);
  legs.erase(legs.begin(), legs.end() - taken);
  const std::vector<StepCoefficients> coefficients = Coefficients(constants, sampler, legs, steps);
  SamplingPlan plan;
  const Moment& first = legs.front().from;
  const bool is_new = !sampling.strength.has_value() || (sampling.masked && *sampling.strength == 1);
  plan.noise = is_new ? InitialNoise(constants, sampler, legs) : first.noise;
  plan.picture = is_new ? 0.0 : first.signal;
  plan.adds_noise = sampler.method == Method::kConsistency;
  auto next_full = sampling.full_steps.begin();
  for (int index = 0; index < taken; ++index) {
    bool is_full = sampling.full_steps.empty() && index % sampling.cache_interval == 0;
    if (next_full != sampling.full_steps.end() && *next_full == index) {
      is_full = true;
      ++next_full;
    }
    const auto at = static_cast<size_t>(index);
    // Where the next step begins, which is not always where this one arrives: timesteps are rounded.
    const Moment next = at + 1 < legs.size() ? legs[at + 1].from : Moment{0, 1, 0};
    plan.steps.push_back({legs[at].from.timestep, coefficients[at], next.signal, next.noise, is_full});
  }
  return plan;
}

}  // namespace ddimcache::session
