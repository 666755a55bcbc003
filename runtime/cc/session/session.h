// From token ids to pixels on a device: the whole of an image runs here, next to the kernels. Only the
// standard library is needed to use it, and no Python:
//
//   using namespace ddimcache::session;
//   Session session("sd15.bundle");
//   const Picture picture = session.Draw({.ids = ids, .negative_ids = negative_ids, .seed = 7});
//
// Link with this library, libtvm_runtime and libtvm_ffi. Whatever goes wrong is thrown as a Failure.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#define DDIMCACHE_EXPORT __attribute__((visibility("default")))

namespace ddimcache::session {

// What went wrong, where, and what to do about it. `kind` is the class that Python raises for it:
// "UsageError", "BundleError", "DeviceError", "CancelledError", or "InternalError" for a defect of the
// library.
class DDIMCACHE_EXPORT Failure : public std::exception {
 public:
  Failure(std::string kind, std::string problem, std::string where, std::string remedy = "");
  // "where: problem; remedy"
  const char* what() const noexcept override { return text_.c_str(); }

  // Never changed.
  std::string kind, problem, where, remedy;

 private:
  std::string text_;
};

// Which components are on the device at the same time.
enum class Memory {
  kAuto,       // the first of the following that fits into the budget, or into the device's memory
  kResident,   // everything, from its first use on
  kPipelined,  // the UNet; text encoder and decoder come and go while the UNet loads or works
  kLoadOnUse,  // the component at work, alone
};

struct Options {
  // "opencl", "opencl:1" or "llvm"; empty is the first device of the kind that the bundle was compiled for.
  std::string device;
  Memory memory = Memory::kAuto;
  // Most bytes on the device; an allocation beyond it fails. Zero sets no bound.
  uint64_t memory_budget = 0;
  // The caller has read every file for its sha256 already.
  bool verified = false;
  // Replay recorded steps where the device can; otherwise launch every kernel of every step.
  bool replay = true;
};

// What the bundle makes. Sizes in pixels.
struct Facts {
  std::string model, device;
  // The folder of the tokenizer's files.
  std::string tokenizer;
  int text_length = 0;
  int batch = 0;
  // Width and height of the pictures it makes; the first is drawn where a request names none.
  std::vector<std::array<int, 2>> sizes;
  // [batch, channels, height, width] of the latents of the first size.
  std::vector<int64_t> latents_shape;
  Memory memory = Memory::kResident;
  // Bytes on the device at most with that mode, by the manifest.
  uint64_t memory_estimate = 0;
};

struct Request {
  // Of the picture in pixels: one of the sizes that the bundle makes, its first where both are 0.
  int width = 0, height = 0;
  // Exactly `text_length` token ids each. The negative ones are used where guidance is above 1.
  std::vector<int32_t> ids, negative_ids = {};
  // 0 … 2^63 - 1. Not used when latents are given.
  uint64_t seed = 0;
  // Initial noise of unit variance, row-major, in place of a seed.
  std::vector<float> latents = {};
  // A picture to begin with, [height, width, 3] of the size that is drawn, where the bundle has an image
  // encoder: noise of the seed is added to it, and of the steps only the last `strength` is taken, above 0
  // to 1.
  std::vector<uint8_t> image = {};
  double strength = 0.8;
  // Where that picture is drawn anew, [height, width]: from 128 on it is, below it stays. At a strength of 1
  // the drawn parts begin as noise alone.
  std::vector<uint8_t> mask = {};
  // "ddim", "euler", "euler-karras", "dpm++2m", "dpm++2m-karras" or "lcm". The last adds noise of the seed at
  // every step, so it takes no latents, and runs the whole UNet at every step.
  std::string sampler = "ddim";
  // 1 … 1000 steps, of which every `cache_interval`-th runs the whole UNet.
  int steps = 50;
  int cache_interval = 5;
  // In place of `cache_interval`: the steps that run the whole UNet, from 0 upwards; step 0 must be one.
  std::vector<int> full_steps = {};
  // Scale of classifier-free guidance; at 1 or below the UNet runs once a step, without the negative prompt.
  double guidance = 7.5;
};

// Pixels [batch, height, width, 3] and final latents, both row-major.
struct Picture {
  std::vector<uint8_t> pixels;
  std::vector<float> latents;
};

enum class State { kIdle, kText, kDenoise, kDecode, kDone, kFailed, kCancelled };

// Seconds of the image so far. `text`, `denoise` and `decode` count computing only; `total` everything since
// the image was asked for, loading and what was compiled included.
struct Timings {
  double text = 0, denoise = 0, decode = 0, total = 0;
  int full_steps = 0, cached_steps = 0;
  // Of one step: the median over the steps of the kind but its first, which may compile kernels; of the first
  // where it is the only one; nothing without any.
  std::optional<double> full_step, cached_step;
  // Steps whose launches were replayed from a recording.
  int replayed_steps = 0;
};

struct Progress {
  State state = State::kIdle;
  // Of the image in pixels.
  int width = 0, height = 0;
  int steps_done = 0, steps = 0;
  Timings timings;
  // The latents after `preview_step` steps, where they were asked for and the loop has got to it.
  std::vector<float> preview;
  int preview_step = 0;
};

// A bundle on a device, and a thread that draws. One image at a time; any thread may call.
class DDIMCACHE_EXPORT Session {
 public:
  explicit Session(const std::string& bundle, const Options& options = {});
  // Cancels what is at work and waits for it.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Facts& facts() const;

  // Draws one image and waits for it.
  Picture Draw(const Request& request);

  // Begins an image and returns at once. Throws where the request is wrong or an image is at work.
  void Start(const Request& request);

  // Waits up to `wait_seconds` for another state than at the last call or a preview, and tells how far the
  // image is. With `preview` the loop leaves its latents at the end of its next step.
  Progress Poll(double wait_seconds = 0, bool preview = false);

  // The picture of the image that is done; throws what stopped it otherwise. Waits while it is at work.
  Picture Result();

  // Ends the image at work: no further step begins. What was enqueued is waited for by Result.
  void Cancel();

  // The most bytes in use at once since the session was opened: on the device where that is counted, of the
  // process for llvm.
  uint64_t peak_bytes() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace ddimcache::session
