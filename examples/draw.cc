// Draws a picture from a bundle without Python:
//
//   draw BUNDLE "a red circle" out.png --seed 7 --steps 20
//
// Built by CMake with -DDDIMCACHE_EXAMPLES=ON; docs/opencl-runtime.md says what it needs beside it.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "png.h"
#include "session.h"
#include "tokenizer.h"

namespace {

using namespace ddimcache::session;

constexpr char kUsage[] =
    "usage: draw BUNDLE PROMPT OUT.png [--seed N] [--steps N] [--cache-interval N] [--guidance X]\n"
    "                                  [--sampler ddim|euler|dpm++2m|lcm] [--negative-prompt TEXT]\n"
    "                                  [--size WIDTHxHEIGHT] [--device opencl|opencl:1|llvm]\n";

template <typename Number>
void Read(const std::string& option, const std::string& text, Number* number) {
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), *number);
  if (problem == std::errc() && end == text.data() + text.size()) return;
  throw Failure("UsageError", "'" + text + "' is no number for it", option);
}

struct Arguments {
  std::vector<std::string> places;
  std::string device, negative;
  Request request = {.ids = {}, .seed = std::random_device()()};

  void Set(const std::string& option, const std::string& value) {
    if (option == "--seed") return Read(option, value, &request.seed);
    if (option == "--steps") return Read(option, value, &request.steps);
    if (option == "--cache-interval") return Read(option, value, &request.cache_interval);
    if (option == "--guidance") return Read(option, value, &request.guidance);
    if (option == "--size") {
      const size_t middle = std::min(value.find('x'), value.size());
      Read(option, value.substr(0, middle), &request.width);
      return Read(option, value.substr(std::min(middle + 1, value.size())), &request.height);
    }
    if (option == "--sampler") {
      request.sampler = value;
      return;
    }
    if (option != "--device" && option != "--negative-prompt") {
      throw Failure("UsageError", "is no option of this program", option);
    }
    (option == "--device" ? device : negative) = value;
  }
};

Arguments ReadArguments(const std::vector<std::string>& given) {
  Arguments arguments;
  for (size_t index = 0; index < given.size(); ++index) {
    if (!given[index].starts_with("--")) {
      arguments.places.push_back(given[index]);
    } else if (index + 1 == given.size()) {
      throw Failure("UsageError", "has no value", given[index]);
    } else {
      arguments.Set(given[index], given[index + 1]);
      ++index;
    }
  }
  if (arguments.places.size() != 3)
    throw Failure("UsageError", "expected BUNDLE, PROMPT and OUT.png", "draw");
  return arguments;
}

void Draw(Arguments arguments) {
  Session session(arguments.places[0], {.device = arguments.device});
  const Facts& facts = session.facts();
  const Tokenizer tokenizer(facts.tokenizer);
  arguments.request.ids = tokenizer.Encode(arguments.places[1]);
  arguments.request.negative_ids = tokenizer.Encode(arguments.negative);
  session.Start(arguments.request);
  for (Progress now = session.Poll(1); now.state < State::kDone; now = session.Poll(1)) {
    std::fprintf(stderr, "\rstep %d of %d", now.steps_done, now.steps);
  }
  Picture picture = session.Result();
  const Progress done = session.Poll();
  // The first of the batch; a bundle makes `facts.batch` at once.
  picture.pixels.resize(size_t{3} * done.width * done.height);
  const std::string file = EncodePng(picture.pixels, done.width, done.height);
  std::ofstream stream(arguments.places[2], std::ios::binary);
  stream.write(file.data(), static_cast<std::streamsize>(file.size()));
  if (!stream.flush()) throw Failure("UsageError", "cannot be written", arguments.places[2]);
  std::fprintf(stderr, "\r%s: seed %llu on %s\n", arguments.places[2].c_str(),
               static_cast<unsigned long long>(arguments.request.seed), facts.device.c_str());
}

}  // namespace

int main(int count, char** arguments) {
  try {
    Draw(ReadArguments({arguments + 1, arguments + count}));
    return 0;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "\rdraw: %s\n%s", failure.what(), failure.kind == "UsageError" ? kUsage : "");
    return failure.kind == "UsageError" ? 2 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "\rdraw: %s\n", error.what());
    return 1;
  }
}
