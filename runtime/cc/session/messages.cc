#include "messages.h"

#include <cstdint>
#include <optional>

#include "../json.h"

namespace ddimcache::session {
namespace {

using opencl::JsonObject;
using opencl::JsonString;

std::string OrNull(const std::string& text) {
  return text.empty() ? "null" : JsonString(text);
}

void AddSeconds(JsonObject* object, const char* key, std::optional<double> seconds) {
  if (seconds.has_value()) {
    object->Add(key, *seconds);
  } else {
    object->AddRaw(key, "null");
  }
}

}  // namespace

Message Unpack(std::string_view bytes) {
  uint64_t length = 0;
  if (bytes.size() >= 4) {
    for (int i = 3; i >= 0; --i)
      length = length << 8 | static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
  }
  if (bytes.size() < 4 || length > bytes.size() - 4) {
    throw Failure("UsageError", "a torn message", "session");
  }
  return {bytes.substr(4, length), bytes.substr(4 + length)};
}

std::string Pack(std::string_view head, std::string_view body) {
  std::string message;
  for (int shift = 0; shift < 32; shift += 8) message += static_cast<char>(head.size() >> shift & 0xFF);
  message += head;
  message += body;
  return message;
}

std::string ResultReply(std::string_view json, std::string_view body) {
  return Pack(JsonObject().AddRaw("result", json).Finish(), body);
}

std::string ErrorReply(const Failure& failure) {
  const std::string error = JsonObject()
                                .Add("kind", failure.kind)
                                .Add("what", failure.problem)
                                .AddRaw("where", OrNull(failure.where))
                                .AddRaw("remedy", OrNull(failure.remedy))
                                .Finish();
  return Pack(JsonObject().AddRaw("error", error).Finish());
}

const char* StateName(State state) {
  static constexpr const char* kNames[] = {"idle", "text",   "denoise",  "decode",
                                           "done", "failed", "cancelled"};
  return kNames[static_cast<size_t>(state)];
}

std::string ProgressJson(const Progress& progress) {
  const Timings& timings = progress.timings;
  JsonObject seconds;
  seconds.Add("text", timings.text).Add("denoise", timings.denoise).Add("decode", timings.decode);
  seconds.Add("total", timings.total);
  JsonObject times;
  times.AddRaw("seconds", seconds.Finish());
  const auto count = [](int value) { return std::to_string(value); };
  times.AddRaw("full_steps", count(timings.full_steps)).AddRaw("cached_steps", count(timings.cached_steps));
  AddSeconds(&times, "seconds_full_step", timings.full_step);
  AddSeconds(&times, "seconds_cached_step", timings.cached_step);
  return JsonObject()
      .Add("state", StateName(progress.state))
      .AddRaw("size", "[" + count(progress.width) + ", " + count(progress.height) + "]")
      .AddRaw("steps_done", count(progress.steps_done))
      .AddRaw("steps", count(progress.steps))
      .AddRaw("preview_step", progress.preview.empty() ? "null" : count(progress.preview_step))
      .AddRaw("replayed_steps", count(timings.replayed_steps))
      .AddRaw("timings", times.Finish())
      .Finish();
}

}  // namespace ddimcache::session
