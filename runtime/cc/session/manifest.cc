#include "manifest.h"

#include <algorithm>
#include <set>
#include <utility>

#include "json_reader.h"
#include "session.h"

namespace ddimcache::session {
namespace {

// Shapes whose bytes would not fit into 62 bits are refused, so that sizes can be multiplied without a
// thought.
constexpr uint64_t kLargestTensor = uint64_t{1} << 62;

bool IsPlainLetter(char letter, bool first) {
  return (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z') ||
         (letter >= '0' && letter <= '9') || letter == '_' ||
         (!first && (letter == '.' || letter == '+' || letter == '-'));
}

// Parts of plain letters with slashes between them: no root, no "..", nothing hidden.
bool IsFileName(const std::string& name) {
  if (name.empty() || name.size() > 200) return false;
  bool first = true;
  for (const char letter : name) {
    if (letter == '/') {
      if (first) return false;
      first = true;
    } else {
      if (!IsPlainLetter(letter, first)) return false;
      first = false;
    }
  }
  return !first;
}

std::string ReadFileName(const Place& place) {
  const std::string& name = place.Text();
  if (!IsFileName(name)) {
    place.Refuse("'" + name + "' is not a plain relative file name inside the bundle");
  }
  return name;
}

std::string ReadSha256(const Place& place) {
  const std::string& sum = place.Text();
  const bool good = sum.size() == 64 && std::all_of(sum.begin(), sum.end(), [](char digit) {
                      return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
                    });
  if (!good) place.Refuse("'" + sum + "' is not a sha256 in lower-case hexadecimal");
  return sum;
}

TensorSpec ReadSpec(const Place& shape, const Place& dtype) {
  TensorSpec spec;
  spec.dtype = dtype.Choice({"float32", "float16", "int32", "int8", "uint8"});
  uint64_t bytes = ItemBytes(spec.dtype);
  for (const Place& item : shape.Items()) {
    const int64_t extent = item.Integer(1);
    if (static_cast<uint64_t>(extent) > kLargestTensor / bytes) shape.Refuse("is larger than any tensor");
    bytes *= static_cast<uint64_t>(extent);
    spec.shape.push_back(extent);
  }
  return spec;
}

TensorSpec ReadSpec(const Place& place) {
  const Fields fields = place.Object({"shape", "dtype"});
  return ReadSpec(fields["shape"], fields["dtype"]);
}

std::vector<TensorSpec> ReadSpecs(const Place& place) {
  std::vector<TensorSpec> specs;
  for (const Place& item : place.Items()) specs.push_back(ReadSpec(item));
  return specs;
}

void CheckKernel(const Place& place) {
  const Fields fields = place.Object({"name", "calls"}, {"macs"});
  fields["name"].Text(1);
  for (const auto& [function, calls] : fields["calls"].Entries()) calls.Integer(0);
  if (const auto macs = fields.Find("macs")) macs->Integer(0);
}

void CheckPeak(const Place& place) {
  const Fields fields = place.Object({"function", "bytes", "tensors"});
  fields["function"].Text(1);
  fields["bytes"].Integer(0);
  for (const Place& item : fields["tensors"].Items()) {
    const Fields tensor = item.Object({"kernel", "shape", "bytes"});
    tensor["kernel"].Text(1);
    for (const Place& extent : tensor["shape"].Items()) extent.Integer(1);
    tensor["bytes"].Integer(0);
  }
}

std::vector<Weight> ReadWeights(const Place& place) {
  std::vector<Weight> weights;
  uint64_t total = 0;
  for (const Place& item : place.Items()) {
    const Fields weight = item.Object({"name", "shape", "dtype"});
    const TensorSpec spec = ReadSpec(weight["shape"], weight["dtype"]);
    if (spec.bytes() > kLargestTensor - total) item.Refuse("makes the weights larger than any memory");
    total += spec.bytes();
    weights.push_back({weight["name"].Text(1), spec});
  }
  return weights;
}

ComponentSpec ReadComponent(const Place& place) {
  const Fields fields = place.Object({"library", "weights_file", "weights", "functions", "launches"},
                                     {"kernels", "activation_bytes", "sources", "peaks"});
  ComponentSpec component;
  component.library = ReadFileName(fields["library"]);
  component.weights_file = ReadFileName(fields["weights_file"]);
  component.launches = ReadFileName(fields["launches"]);
  component.weights = ReadWeights(fields["weights"]);
  for (const auto& [name, function] : fields["functions"].Entries()) {
    const Fields sides = function.Object({"inputs", "outputs"});
    component.functions[name] = {ReadSpecs(sides["inputs"]), ReadSpecs(sides["outputs"])};
  }
  if (const auto kernels = fields.Find("kernels")) {
    for (const Place& kernel : kernels->Items()) CheckKernel(kernel);
  }
  if (const auto bytes = fields.Find("activation_bytes")) {
    component.activation_bytes = static_cast<uint64_t>(bytes->Integer(0));
  }
  if (const auto peaks = fields.Find("peaks")) {
    for (const Place& peak : peaks->Items()) CheckPeak(peak);
  }
  if (const auto sources = fields.FindUnlessNull("sources")) component.sources = ReadFileName(*sources);
  return component;
}

SigmaSampler ReadSigmaSampler(const Place& place) {
  const Fields fields =
      place.Object({"timestep_spacing", "steps_offset"},
                   {"karras", "allows_karras", "ends_at_zero", "lower_order_final", "euler_at_final"});
  SigmaSampler sampler;
  sampler.timestep_spacing = fields["timestep_spacing"].Choice({"leading", "trailing", "linspace"});
  sampler.steps_offset = fields["steps_offset"].Integer(0);
  const auto read = [&](const char* key, bool* flag) {
    if (const auto found = fields.Find(key)) *flag = found->Boolean();
  };
  read("karras", &sampler.karras), read("allows_karras", &sampler.allows_karras);
  read("ends_at_zero", &sampler.ends_at_zero);
  read("lower_order_final", &sampler.lower_order_final), read("euler_at_final", &sampler.euler_at_final);
  return sampler;
}

ConsistencySampler ReadConsistencySampler(const Place& place) {
  const Fields fields = place.Object({"original_steps", "timestep_scaling"});
  return {fields["original_steps"].Integer(1), fields["timestep_scaling"].Number(0)};
}

SamplerConstants ReadSampler(const Place& place) {
  const Fields fields = place.Object(
      {"num_train_timesteps", "alphas_cumprod", "final_alpha_cumprod", "prediction_type", "timestep_spacing",
       "steps_offset", "clip_sample", "clip_sample_range"},
      {"init_noise_sigma", "vae_scaling_factor", "vae_shift_factor", "euler", "dpmpp_2m", "lcm"});
  SamplerConstants sampler;
  sampler.num_train_timesteps = fields["num_train_timesteps"].Integer(1);
  for (const Place& item : fields["alphas_cumprod"].Items()) {
    sampler.alphas_cumprod.push_back(item.Number(0, 1));
  }
  sampler.final_alpha_cumprod = fields["final_alpha_cumprod"].Number(0, 1);
  sampler.prediction_type = fields["prediction_type"].Choice({"epsilon", "v_prediction", "sample"});
  sampler.timestep_spacing = fields["timestep_spacing"].Choice({"leading", "trailing", "linspace"});
  sampler.steps_offset = fields["steps_offset"].Integer(0);
  sampler.clip_sample = fields["clip_sample"].Boolean();
  sampler.clip_sample_range = fields["clip_sample_range"].Number(0);
  if (const auto sigma = fields.Find("init_noise_sigma")) sampler.init_noise_sigma = sigma->Number(0);
  for (const char* key : {"vae_scaling_factor", "vae_shift_factor"}) {
    if (const auto factor = fields.Find(key)) factor->Number();
  }
  const size_t table = sampler.alphas_cumprod.size();
  if (table != static_cast<uint64_t>(sampler.num_train_timesteps)) {
    place.Refuse("alphas_cumprod: " + std::to_string(table) + " numbers for " +
                 std::to_string(sampler.num_train_timesteps) + " training timesteps");
  }
  if (const auto euler = fields.FindUnlessNull("euler")) sampler.euler = ReadSigmaSampler(*euler);
  if (const auto solver = fields.FindUnlessNull("dpmpp_2m")) sampler.dpmpp_2m = ReadSigmaSampler(*solver);
  if (const auto lcm = fields.FindUnlessNull("lcm")) {
    sampler.lcm = ReadConsistencySampler(*lcm);
    if (sampler.lcm->original_steps > sampler.num_train_timesteps) {
      place.Refuse("lcm.original_steps: " + std::to_string(sampler.lcm->original_steps) + " of " +
                   std::to_string(sampler.num_train_timesteps) + " training timesteps");
    }
  }
  return sampler;
}

void CheckPass(const Place& place) {
  const Fields fields = place.Object({"name", "component", "changes"}, {"seconds", "note", "size"});
  fields["name"].Text(1);
  fields["component"].Choice({"text_encoder", "unet", "vae_decoder", "vae_encoder"});
  fields["changes"].Integer(0);
  if (const auto seconds = fields.Find("seconds")) seconds->Number(0);
  if (const auto note = fields.Find("note")) note->Text();
  if (const auto size = fields.FindUnlessNull("size")) {
    for (const Place& side : size->Items(2)) side.Integer(1);
  }
}

// The keys of a manifest, and of one of its further sizes, that are about one size.
PictureSize ReadSize(const Fields& fields) {
  const auto side = [](const Place& item) {
    const int64_t extent = item.Integer(1);
    // Five such sides make a product of less than 63 bits.
    if (extent > 1 << 20) item.Refuse("is larger than any picture");
    return extent;
  };
  PictureSize size;
  const auto image = fields["image_size"].Items(2), latent = fields["latent_size"].Items(2);
  size.width = side(image[0]), size.height = side(image[1]);
  size.latent_width = side(latent[0]), size.latent_height = side(latent[1]);
  size.features = ReadSpecs(fields["features"]);
  for (const char* key : {"macs_full", "macs_cached", "macs_saved_full", "macs_saved_cached"}) {
    fields[key].Integer(0);
  }
  for (const Place& item : fields["storages"].Items()) {
    const auto bytes = static_cast<uint64_t>(item.Integer(1));
    if (bytes > kLargestTensor - size.storage_bytes()) item.Refuse("makes them larger than any memory");
    size.storages.push_back(bytes);
  }
  if (const auto guided = fields.Find("macs_guided")) {
    for (const auto& [name, macs] : guided->Entries()) {
      size.macs_guided[name] = static_cast<uint64_t>(macs.Integer(0));
    }
  }
  return size;
}

void CheckFeature(const PictureSize& size, const Place& bytes) {
  const auto found = static_cast<uint64_t>(bytes.Integer(0));
  if (!size.features.empty() && size.feature_bytes() == found) return;
  throw JsonProblem((size.suffix.empty() ? "" : "more_sizes: " + size.text() + ": ") + "feature_bytes",
                    std::to_string(found) + ", but " + std::to_string(size.features.size()) +
                        " features make " + std::to_string(size.feature_bytes()));
}

PictureSize ReadFurtherSize(const Place& place) {
  const Fields fields =
      place.Object({"image_size", "latent_size", "features", "feature_bytes", "macs_full", "macs_cached",
                    "macs_saved_full", "macs_saved_cached", "activation_bytes", "storages"},
                   {"macs_guided"});
  PictureSize size = ReadSize(fields);
  size.suffix = "_" + size.text();
  for (const auto& [name, bytes] : fields["activation_bytes"].Entries()) {
    size.activation_bytes[name] = static_cast<uint64_t>(bytes.Integer(0));
  }
  CheckFeature(size, fields["feature_bytes"]);
  return size;
}

template <typename Map>
std::string Names(const Map& map) {
  std::string list;
  for (const auto& entry : map) list += (list.empty() ? "" : ", ") + entry.first;
  return list.empty() ? "none" : list;
}

// Each size once, and activations of what depends on the size.
void CheckSizes(const Manifest& manifest) {
  std::set<std::pair<int64_t, int64_t>> known;
  for (const PictureSize& size : manifest.sizes) {
    if (!known.insert({size.width, size.height}).second) {
      throw JsonProblem("more_sizes", size.text() + " is there twice");
    }
    const auto& guided = size.macs_guided;
    const std::map<std::string, uint64_t> none, both = {{"cached", 0}, {"full", 0}};
    const auto& expected = manifest.guides_in_one_call() ? both : none;
    if (Names(guided) != Names(expected)) {
      const std::string where = size.suffix.empty() ? "" : "more_sizes: " + size.text() + ": ";
      throw JsonProblem(where + "macs_guided", "of " + Names(guided) + ", expected " + Names(expected));
    }
    const auto& planned = size.activation_bytes;
    const bool same = planned.size() + 1 == manifest.components.size() && !planned.count("text_encoder") &&
                      std::all_of(planned.begin(), planned.end(), [&](const auto& entry) {
                        return manifest.components.count(entry.first) != 0;
                      });
    if (!size.suffix.empty() && !same) {
      throw JsonProblem("more_sizes", size.text() + ": activation_bytes: of " + Names(planned) +
                                          ", not of what depends on the size");
    }
  }
}

std::string Text(const FunctionSpec& function) {
  const auto side = [](const std::vector<TensorSpec>& specs) {
    std::string text;
    for (const TensorSpec& spec : specs) text += (text.empty() ? "" : ", ") + spec.text();
    return "(" + text + ")";
  };
  return side(function.inputs) + " → " + side(function.outputs);
}

// Throws JsonProblem for the first contradiction, as Manifest.first_problem does in Python.
void CheckWhole(const Manifest& manifest, const std::map<std::string, int64_t>& macs_once) {
  const auto& components = manifest.components;
  if (components.size() - manifest.takes_images() != 3 || !components.count("text_encoder") ||
      !components.count("unet") || !components.count("vae_decoder")) {
    throw JsonProblem("components",
                      "expected text_encoder, unet and vae_decoder, found " + Names(components));
  }
  if (manifest.inpaints && !manifest.takes_images()) {
    throw JsonProblem("inpaints", "true, but without a vae_encoder no picture can be filled in");
  }
  const auto& shape = manifest.context.shape;
  if (shape.size() != 3 || shape[0] != 1) {
    const std::string text = manifest.context.text();
    throw JsonProblem("context", "expected shape [1, L, D], found " + text.substr(text.find('[')));
  }
  CheckSizes(manifest);
  const TensorSpec ids{{1, shape[1]}, "int32"};
  struct Entry {
    std::string component, function;
    FunctionSpec spec;
  };
  std::vector<Entry> contract = {{"text_encoder", "encode", {{ids}, {manifest.context}}}};
  for (const auto& [name, spec] : manifest.once()) contract.push_back({"unet", name, spec});
  const TensorSpec time = manifest.time(), prompt = manifest.prompt();
  for (const PictureSize& size : manifest.sizes) {
    const TensorSpec latents = manifest.latents(size), image = manifest.image(size);
    const std::string& end = size.suffix;
    std::vector<TensorSpec> given = {latents, time, prompt};
    if (manifest.inpaints) given.push_back(manifest.projected(size));
    std::vector<TensorSpec> made = {latents};
    made.insert(made.end(), size.features.begin(), size.features.end());
    const auto add_steps = [&](const std::string& ending) {
      contract.push_back({"unet", "full" + ending, {given, made}});
      given.insert(given.end(), made.begin() + 1, made.end());
      contract.push_back({"unet", "cached" + ending, {given, {made[0]}}});
      given.resize(given.size() - size.features.size());
    };
    add_steps(end);
    if (manifest.guides_in_one_call()) {
      given[2] = given[2].for_both();
      for (TensorSpec& spec : made) spec = spec.for_both();
      add_steps(kGuided + end);
    }
    contract.push_back({"vae_decoder", "decode" + end, {{latents}, {image}}});
    if (manifest.takes_images()) {
      contract.push_back({"vae_encoder", "encode" + end, {{image, manifest.hole(size), latents}, {latents}}});
    }
  }
  for (const auto& [component, function, expected] : contract) {
    const std::string where = "components." + component + ".functions";
    const auto& functions = components.at(component).functions;
    const auto found = functions.find(function);
    if (found == functions.end()) {
      throw JsonProblem(where, "function '" + function + "' is missing");
    }
    if (found->second != expected) {
      throw JsonProblem(where + "." + function,
                        Text(found->second) + " does not fit the manifest's sizes: " + Text(expected));
    }
  }
  const auto once = manifest.once();
  const bool same = once.size() == macs_once.size() &&
                    std::all_of(once.begin(), once.end(),
                                [&](const auto& entry) { return macs_once.count(entry.first) != 0; });
  if (!same) {
    throw JsonProblem("macs_once",
                      Names(macs_once) + ", but what the UNet has before its steps is " + Names(once));
  }
  if (manifest.files.count(kManifestName)) {
    throw JsonProblem("files", std::string(kManifestName) + " cannot hold its own sum");
  }
  for (const auto& [name, component] : components) {
    for (const std::string& file :
         {component.library, component.weights_file, component.launches, component.sources}) {
      if (!file.empty() && !manifest.files.count(file)) {
        throw JsonProblem("components." + name, file + " is not in the list of files");
      }
    }
  }
  const std::string folder = manifest.tokenizer + "/";
  const auto first = manifest.files.lower_bound(folder);
  if (first == manifest.files.end() || first->first.compare(0, folder.size(), folder) != 0) {
    throw JsonProblem("tokenizer", "no file of folder " + manifest.tokenizer + " is in the list of files");
  }
}

Manifest Read(const Place& place) {
  const Fields fields = place.Object({"format_version",
                                      "model",
                                      "model_fingerprint",
                                      "target",
                                      "device_kind",
                                      "profile",
                                      "host",
                                      "weights",
                                      "image_size",
                                      "latent_size",
                                      "latent_channels",
                                      "inpaints",
                                      "batch",
                                      "cut",
                                      "cuts",
                                      "context",
                                      "features",
                                      "feature_bytes",
                                      "sampler",
                                      "tokenizer",
                                      "built_with",
                                      "activation_bytes",
                                      "macs_full",
                                      "macs_cached",
                                      "macs_once",
                                      "macs_saved_full",
                                      "macs_saved_cached",
                                      "storages",
                                      "components"},
                                     {"passes", "loras", "more_sizes", "macs_guided", "files"});
  Manifest manifest;
  manifest.model = fields["model"].Text(1);
  ReadSha256(fields["model_fingerprint"]);
  manifest.device_kind = fields["device_kind"].Choice({"opencl", "llvm"});
  for (const char* key : {"target", "profile"}) fields[key].Text(1);
  manifest.host = fields["host"].Text(1);
  fields["weights"].Choice({"int8", "int8-g32", "int8-g64", "int8-g128", "fp16", "fp32"});
  manifest.sizes = {ReadSize(fields)};
  manifest.latent_channels = fields["latent_channels"].Integer(1);
  manifest.inpaints = fields["inpaints"].Boolean();
  manifest.batch = fields["batch"].Integer(1);
  if (manifest.latent_channels > 1 << 10) fields["latent_channels"].Refuse("is more than any model has");
  if (manifest.batch > 1 << 10) fields["batch"].Refuse("is more than any bundle makes at once");
  const int64_t cut = fields["cut"].Integer(0), cuts = fields["cuts"].Integer(1);
  if (cut >= cuts) {
    fields["cut"].Refuse(std::to_string(cut) + " is outside 0 … " + std::to_string(cuts - 1));
  }
  manifest.context = ReadSpec(fields["context"]);
  manifest.sampler = ReadSampler(fields["sampler"]);
  manifest.tokenizer = ReadFileName(fields["tokenizer"]);
  for (const auto& [name, version] : fields["built_with"].Entries()) version.Text();
  fields["activation_bytes"].Integer(0);
  std::map<std::string, int64_t> macs_once;
  for (const auto& [name, macs] : fields["macs_once"].Entries()) macs_once[name] = macs.Integer(0);
  for (const auto& [name, component] : fields["components"].Entries()) {
    manifest.components[name] = ReadComponent(component);
  }
  for (const auto& [name, component] : manifest.components) {
    manifest.sizes[0].activation_bytes[name] = component.activation_bytes;
  }
  if (const auto passes = fields.Find("passes")) {
    for (const Place& pass : passes->Items()) CheckPass(pass);
  }
  if (const auto loras = fields.Find("loras")) {
    for (const Place& item : loras->Items()) {
      const Fields lora = item.Object({"name", "scale", "sha256"});
      lora["name"].Text(1);
      lora["scale"].Number();
      ReadSha256(lora["sha256"]);
    }
  }
  CheckFeature(manifest.sizes[0], fields["feature_bytes"]);
  if (const auto sizes = fields.Find("more_sizes")) {
    for (const Place& size : sizes->Items()) manifest.sizes.push_back(ReadFurtherSize(size));
  }
  if (const auto files = fields.Find("files")) {
    for (const auto& [name, entry] : files->Entries()) {
      if (!IsFileName(name)) {
        files->Refuse("'" + name + "' is not a plain relative file name inside the bundle");
      }
      const Fields file = entry.Object({"bytes", "sha256"});
      manifest.files[name] = {static_cast<uint64_t>(file["bytes"].Integer(0)), ReadSha256(file["sha256"])};
    }
  }
  CheckWhole(manifest, macs_once);
  return manifest;
}

// Before anything else: another version may have other keys, and its version is what to name then.
void CheckVersion(const Json& json) {
  const Json* version = nullptr;
  if (const auto* object = std::get_if<Json::Object>(&json.value)) {
    for (const auto& [key, value] : *object) {
      if (key == "format_version") version = &value;
    }
  }
  if (version == nullptr) throw JsonProblem("", "has no format_version, so it is no bundle of ours");
  const auto* number = std::get_if<int64_t>(&version->value);
  if (number != nullptr && *number == kFormatVersion) return;
  throw JsonProblem("", "format_version is " + (number ? std::to_string(*number) : "no whole number") +
                            ", this runtime reads " + std::to_string(kFormatVersion));
}

}  // namespace

Manifest ParseManifest(std::string_view text, const std::string& where) {
  try {
    const Json json = Json::Parse(text);
    CheckVersion(json);
    return Read(Place(json, ""));
  } catch (const JsonProblem& problem) {
    throw Failure("BundleError", problem.what(), where, kCompileAgain);
  }
}

std::vector<Weight> ParseWeights(std::string_view text) {
  const Json json = Json::Parse(text);
  return ReadWeights(Place(json, "weights"));
}

SamplerConstants ParseSampler(std::string_view text) {
  const Json json = Json::Parse(text);
  return ReadSampler(Place(json, "sampler"));
}

}  // namespace ddimcache::session
