#include "session_module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../json.h"
#include "bundle.h"
#include "component.h"
#include "json_reader.h"
#include "memory_plan.h"
#include "messages.h"
#include "noise.h"
#include "safetensors.h"
#include "schedule.h"
#include "session.h"
#include "tokenizer.h"

namespace ddimcache::session {
namespace {

using opencl::JsonObject;
using tvm::ffi::Any;
using tvm::ffi::Bytes;
using tvm::ffi::Function;
using tvm::ffi::Optional;
using tvm::ffi::String;

Bytes ToBytes(const std::string& text) {
  return Bytes(text.data(), text.size());
}

std::string_view ViewOf(const Bytes& bytes) {
  return {bytes.data(), bytes.size()};
}

// Runs `answer` and lets no Failure through: what went wrong is in the reply.
Bytes Reply(const std::function<std::string()>& answer) {
  try {
    return ToBytes(answer());
  } catch (const Failure& failure) {
    return ToBytes(ErrorReply(failure));
  } catch (const JsonProblem& problem) {
    return ToBytes(ErrorReply(Failure("UsageError", problem.what(), "message")));
  }
}

std::vector<int32_t> ReadIds(const Place& place) {
  std::vector<int32_t> ids;
  for (const Place& item : place.Items()) {
    const int64_t id = item.Integer(0);
    if (id > std::numeric_limits<int32_t>::max()) item.Refuse("is larger than any token id");
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

int ReadCount(const Place& place) {
  // What is out of range is refused in words by the session, which must not see another number.
  const int64_t count = place.Integer(std::numeric_limits<int32_t>::min());
  if (count > std::numeric_limits<int32_t>::max()) place.Refuse("is larger than any count");
  return static_cast<int>(count);
}

// Takes the mask from the end of `body`, where a picture and its mask lie.
std::vector<uint8_t> ReadMask(const Place& bytes, std::string_view* body) {
  const int64_t count = bytes.Integer(0);
  if (count == 0) throw Failure("UsageError", "holds no bytes", "--mask");
  if (static_cast<uint64_t>(count) > body->size()) bytes.Refuse("is more than the message holds");
  const std::string_view mask = body->substr(body->size() - static_cast<size_t>(count));
  body->remove_suffix(mask.size());
  return {mask.begin(), mask.end()};
}

int ReadSide(const Place& place) {
  place.Integer(1);
  return ReadCount(place);
}

Request ReadRequest(const Fields& fields, std::string_view body) {
  Request request;
  if (const auto size = fields.FindUnlessNull("size")) {
    const auto sides = size->Items(2);
    request.width = ReadSide(sides[0]), request.height = ReadSide(sides[1]);
  }
  request.ids = ReadIds(fields["ids"]);
  request.negative_ids = ReadIds(fields["negative_ids"]);
  request.sampler = fields["sampler"].Text();
  request.steps = ReadCount(fields["steps"]);
  request.cache_interval = ReadCount(fields["cache_interval"]);
  for (const Place& item : fields["full_steps"].Items()) request.full_steps.push_back(ReadCount(item));
  request.guidance = fields["guidance"].Number();
  if (const auto bytes = fields.FindUnlessNull("mask_bytes")) {
    if (!fields.FindUnlessNull("strength")) {
      throw Failure("UsageError", "says where a picture is drawn anew, and there is none", "--mask",
                    "give --image as well");
    }
    request.mask = ReadMask(*bytes, &body);
  }
  if (const auto seed = fields.FindUnlessNull("seed")) {
    request.seed = static_cast<uint64_t>(seed->Integer(0));
    if (const auto strength = fields.FindUnlessNull("strength")) {
      request.strength = strength->Number();
      request.image.assign(body.begin(), body.end());
      if (body.empty()) throw Failure("UsageError", "holds no bytes", "--image");
    }
    return request;
  }
  if (fields.FindUnlessNull("strength")) {
    throw Failure("UsageError", "a picture is drawn on with noise of the seed", "initial latents",
                  "give a seed instead");
  }
  if (body.empty() || body.size() % sizeof(float) != 0) {
    throw Failure("UsageError", std::to_string(body.size()) + " bytes are no float32 numbers",
                  "initial latents");
  }
  request.latents.resize(body.size() / sizeof(float));
  std::memcpy(request.latents.data(), body.data(), body.size());
  return request;
}

std::string_view AsBytes(const std::vector<float>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)};
}

// draw, poll and cancel answer alike: how far the image is, and behind it pixels and latents once it is done,
// or else the preview where there is one.
class SessionModule final : public tvm::ffi::ModuleObj {
 public:
  explicit SessionModule(std::unique_ptr<Session> session) : session_(std::move(session)) {}

  const char* kind() const final { return "ddimcache_session"; }
  int GetPropertyMask() const final { return tvm::ffi::Module::kRunnable; }

  Optional<Function> GetFunction(const String& name) final {
    // The module stays alive as long as a function of it.
    const auto self = tvm::ffi::GetObjectPtr<tvm::ffi::Object>(this);
    const auto answering = [this, self](std::string (SessionModule::*method)(const Message&)) {
      return Function::FromTyped([this, self, method](Bytes message) {
        return Reply([&] { return (this->*method)(Unpack(ViewOf(message))); });
      });
    };
    const std::string key = name;
    if (key == "facts") return answering(&SessionModule::Facts);
    if (key == "draw") return answering(&SessionModule::Draw);
    if (key == "poll") return answering(&SessionModule::Poll);
    if (key == "cancel") return answering(&SessionModule::Cancel);
    if (key == "peak_bytes") return answering(&SessionModule::PeakBytes);
    if (key == "close") return answering(&SessionModule::Close);
    return std::nullopt;
  }

 private:
  std::shared_ptr<Session> Opened() {
    std::lock_guard lock(mutex_);
    if (session_ == nullptr) throw Failure("UsageError", "was closed", "session");
    return session_;
  }

  std::string Facts(const Message&) {
    const auto session = Opened();
    const auto& facts = session->facts();
    return ResultReply(JsonObject()
                           .Add("model", facts.model)
                           .Add("device", facts.device)
                           .Add("memory", MemoryName(facts.memory))
                           .Add("memory_estimate", facts.memory_estimate)
                           .Finish());
  }

  std::string Draw(const Message& message) {
    const Json json = Json::Parse(message.head);
    const Fields fields =
        Place(json, "").Object({"size", "ids", "negative_ids", "seed", "strength", "mask_bytes", "sampler",
                                "steps", "cache_interval", "full_steps", "guidance", "wait_seconds"});
    const auto session = Opened();
    session->Start(ReadRequest(fields, message.body));
    if (const auto wait = fields.FindUnlessNull("wait_seconds"))
      return Answer(*session, wait->Number(0), false);
    session->Result();
    return Answer(*session, 0, false);
  }

  std::string Poll(const Message& message) {
    const Json json = Json::Parse(message.head);
    const Fields fields = Place(json, "").Object({"wait_seconds", "preview"});
    return Answer(*Opened(), fields["wait_seconds"].Number(0), fields["preview"].Boolean());
  }

  std::string Cancel(const Message&) {
    Opened()->Cancel();
    return ResultReply("null");
  }

  std::string PeakBytes(const Message&) { return ResultReply(std::to_string(Opened()->peak_bytes())); }

  std::string Close(const Message&) {
    std::shared_ptr<Session> closing;
    {
      std::lock_guard lock(mutex_);
      closing = std::move(session_);
    }
    closing.reset();
    return ResultReply("null");
  }

  static std::string Answer(Session& session, double wait_seconds, bool preview) {
    const Progress progress = session.Poll(wait_seconds, preview);
    const std::string json = ProgressJson(progress);
    switch (progress.state) {
      case State::kDone: {
        const Picture picture = session.Result();
        std::string body(picture.pixels.begin(), picture.pixels.end());
        body += AsBytes(picture.latents);
        return ResultReply(json, body);
      }
      case State::kFailed:
      case State::kCancelled:
        session.Result();  // throws
        [[fallthrough]];
      default:
        return ResultReply(json, AsBytes(progress.preview));
    }
  }

  std::mutex mutex_;
  std::shared_ptr<Session> session_;
};

// The session, or the reply that says why there is none.
Any OpenSession(Bytes message) {
  Any result;
  const Bytes problem = Reply([&] {
    const Json json = Json::Parse(Unpack(ViewOf(message)).head);
    const Fields fields =
        Place(json, "").Object({"bundle", "device", "memory", "memory_budget", "verified", "replay"});
    Options options;
    options.device = fields["device"].Text();
    options.memory = MemoryOfName(fields["memory"].Text());
    if (const auto budget = fields.FindUnlessNull("memory_budget")) {
      options.memory_budget = static_cast<uint64_t>(budget->Integer(1));
    }
    options.verified = fields["verified"].Boolean();
    options.replay = fields["replay"].Boolean();
    auto session = std::make_unique<Session>(fields["bundle"].Text(), options);
    result = tvm::ffi::Module(tvm::ffi::make_object<SessionModule>(std::move(session)));
    return std::string();
  });
  return result.type_index() == tvm::ffi::TypeIndex::kTVMFFINone ? Any(problem) : result;
}

// A component by itself, for those who call its functions: each takes tensors on the device, and the weights
// are put behind them.
class ComponentModule final : public tvm::ffi::ModuleObj {
 public:
  ComponentModule(const Bundle& bundle, const std::string& name, const ComputeDevice& device)
      : component_(bundle, name, device) {}

  const char* kind() const final { return "ddimcache_component"; }
  int GetPropertyMask() const final { return tvm::ffi::Module::kRunnable; }

  Optional<Function> GetFunction(const String& name) final {
    const Function* function = component_.Find(name);
    if (function == nullptr) return std::nullopt;
    const auto self = tvm::ffi::GetObjectPtr<tvm::ffi::Object>(this);
    return Function::FromPacked([this, self, function](tvm::ffi::PackedArgs arguments, Any* result) {
      std::vector<tvm::ffi::AnyView> all;
      for (int i = 0; i < arguments.size(); ++i) all.push_back(arguments[i]);
      all.push_back(component_.weights());
      function->CallPacked(all.data(), static_cast<int>(all.size()), result);
    });
  }

 private:
  LoadedComponent component_;
};

Any OpenComponent(String folder, String name, String device_text) {
  Any result;
  const Bytes problem = Reply([&] {
    const Bundle bundle = OpenBundle(std::string(folder), false);
    const ComputeDevice device(device_text, bundle.manifest.device_kind);
    if (!bundle.manifest.components.count(name)) {
      throw Failure("UsageError", "the bundle has no component " + std::string(name), folder);
    }
    result = tvm::ffi::Module(tvm::ffi::make_object<ComponentModule>(bundle, name, device));
    return std::string();
  });
  return result.type_index() == tvm::ffi::TypeIndex::kTVMFFINone ? Any(problem) : result;
}

Bytes CheckBundle(String folder, bool sums) {
  return Reply([&] {
    OpenBundle(std::string(folder), sums);
    return ResultReply("null");
  });
}

Bytes CheckManifest(Bytes text) {
  return Reply([&] {
    ParseManifest(ViewOf(text), kManifestName);
    return ResultReply("null");
  });
}

// `specs` is a list of {"name", "shape", "dtype"}; the bytes of those weights, one behind the other.
Bytes ReadWeights(String path, Bytes specs) {
  return Reply([&] {
    const std::vector<Weight> weights = ParseWeights(ViewOf(specs));
    const SafetensorsFile file(std::string(path), weights);
    std::string bytes;
    for (const Weight& weight : weights) {
      const size_t begin = bytes.size();
      bytes.resize(begin + weight.spec.bytes());
      file.Read(weight, bytes.data() + begin);
    }
    return ResultReply("null", bytes);
  });
}

// A text's ids by the tokenizer in `folder`; int32.
Bytes Encode(String folder, String text) {
  return Reply([&] {
    const std::vector<int32_t> ids = Tokenizer(std::string(folder)).Encode(std::string(text));
    return ResultReply("null", {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)});
  });
}

Bytes NoiseBytes(Bytes key, int64_t count) {
  uint64_t seed = 0;
  std::memcpy(&seed, key.data(), std::min(sizeof(seed), key.size()));
  const std::vector<float> noise = Noise(seed, static_cast<size_t>(count));
  return ToBytes(std::string(AsBytes(noise)));
}

// One row a step: timestep, whether it is full, p, q, r, s, clip, a, b, c, d, and what is kept of a picture
// and of noise; float64. A strength of 0 is of an image that does not begin with a picture.
Bytes ScheduleRows(Bytes constants, String sampler, int steps, int cache_interval, double strength,
                   bool masked) {
  return Reply([&] {
    const SamplingPlan plan =
        Schedule(ParseSampler(ViewOf(constants)), {std::string(sampler),
                                                   steps,
                                                   cache_interval,
                                                   {},
                                                   strength == 0 ? std::nullopt : std::optional(strength),
                                                   masked});
    std::string rows;
    for (const Step& step : plan.steps) {
      const StepCoefficients& c = step.coefficients;
      for (const double number : {step.timestep, step.is_full ? 1.0 : 0.0, c.p, c.q, c.r, c.s, c.clip, c.a,
                                  c.b, c.c, c.d, step.kept_picture, step.kept_noise}) {
        rows.append(reinterpret_cast<const char*>(&number), sizeof(number));
      }
    }
    return ResultReply(JsonObject()
                           .Add("noise", plan.noise)
                           .Add("picture", plan.picture)
                           .Add("adds_noise", plan.adds_noise)
                           .Finish(),
                       rows);
  });
}

}  // namespace

void RegisterFunctions() {
  tvm::ffi::reflection::GlobalDef()
      .def("ddimcache.device_session.open", OpenSession)
      .def("ddimcache.device_session.open_component", OpenComponent)
      .def("ddimcache.device_session.check_bundle", CheckBundle)
      .def("ddimcache.device_session.check_manifest", CheckManifest)
      .def("ddimcache.device_session.read_weights", ReadWeights)
      .def("ddimcache.device_session.encode", Encode)
      .def("ddimcache.device_session.noise", NoiseBytes)
      .def("ddimcache.device_session.schedule", ScheduleRows);
}

}  // namespace ddimcache::session
