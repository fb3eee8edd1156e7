// `coluber info`: what this machine offers, which kernels it gets, and what a model consists of.
#include <algorithm>
#include <cstdio>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/machine.h"
#include "apps/model_files.h"
#include "apps/terminal.h"
#include "coluber/model.h"
#include "coluber/version.h"
#include "core/check.h"
#include "core/threads.h"
#include "models/build.h"

namespace coluber::apps {
namespace {

struct Options : ModelOptions {
  std::string preset;
  bool tensors = false;
};

std::string shape_text(const Shape& shape) {
  return shape.to_string();
}

Json machine_json(const Options& options) {
  Json caches = Json::object();
  for (const auto& [name, bytes] : cache_sizes_bytes()) caches[name] = bytes;
  Json libraries = Json::object();
  for (const auto& [name, version] : library_versions()) libraries[name] = version;
  const Context ctx(options.context());
  const Device device = options.chosen_device();
  Json kernels = Json::array();
  for (const ops::KernelChoice& choice : ops::kernel_choices(ctx.algorithm(), device)) {
    kernels.push_back({{"op", choice.op}, {"kernel", choice.kernel}, {"why", choice.why}});
  }
  Json gpus = Json::array();
  for (int index = 0; index < cuda_device_count(); ++index) gpus.push_back(gpu_json(index));
  const std::string no_gpu = cuda_unavailable_reason();
  return {{"version", COLUBER_VERSION},
          {"cpu", cpu_model()},
          {"isa", cpu_isa()},
          {"cores", available_cores()},
          {"threads", ctx.num_threads()},
          {"algorithm", options.algorithm},
          {"caches_bytes", caches},
          {"memory_bytes", total_memory_bytes()},
          {"memory_available_bytes", available_memory_bytes()},
          {"libraries", libraries},
          {"gpus", gpus},
          {"no_gpu", no_gpu.empty() ? Json(nullptr) : Json(no_gpu)},
          {"device", device_name(device)},
          {"kernels", kernels}};
}

Json model_json(const Model& model, const std::string& name) {
  const ModelConfig& config = model.config();
  Json parameters = Json::array();
  for (const Parameter& parameter : model.parameters()) {
    const Tensor& value = parameter.var.value();
    const Shape& shape = value.shape();
    parameters.push_back({{"name", parameter.name},
                          {"shape", std::vector<std::int64_t>(shape.begin(), shape.end())},
                          {"dtype", dtype_name(value.dtype())},
                          {"bytes", value.numel() * dtype_size(value.dtype())},
                          {"weight_decay", parameter.weight_decay}});
  }
  return {{"name", name},
          {"layout", checkpoint_layout_name(config.layout)},
          {"d_model", config.d_model},
          {"n_layer", config.n_layer},
          {"vocab_size", config.vocab_size},
          {"padded_vocab_size", config.padded_vocab_size()},
          {"d_inner", config.mixer.d_inner},
          {"d_state", config.mixer.d_state},
          {"d_conv", config.mixer.d_conv},
          {"dt_rank", config.mixer.dt_rank},
          {"norm", config.norm == NormKind::kRms ? "rms" : "layer"},
          {"tie_embeddings", config.tie_embeddings},
          {"bidirectional", config.bidirectional},
          {"dtype", dtype_name(model.dtype())},
          {"num_parameters", model.num_parameters()},
          {"size_bytes", model.size_bytes()},
          {"state_bytes_per_sequence", model.make_state(1).size_bytes()},
          {"parameters", parameters}};
}

Json tokenizer_json(const Tokenizer& tokenizer) {
  return {{"kind", tokenizer_kind_name(tokenizer.kind())},
          {"vocab_size", tokenizer.vocab_size()},
          {"lossless", tokenizer.lossless()}};
}

void print_pair(const std::string& name, const std::string& value) {
  std::string padded = name;
  padded.resize(std::max<std::size_t>(padded.size(), 13), ' ');
  print_line("  " + padded + "  " + value);
}

std::string gpu_text(const Json& gpu) {
  return join(gpu["name"].get<std::string>(), ", compute capability ", gpu["compute_capability"].get<std::string>(),
              ", ", gpu["multiprocessors"].get<int>(), " multiprocessors, ",
              human_bytes(gpu["memory_bytes"].get<std::int64_t>()), " of memory, ",
              human_bytes(gpu["memory_available_bytes"].get<std::int64_t>()), " available, CUDA ",
              gpu["cuda"].get<std::string>(), ", driver for ", gpu["driver_cuda"].get<std::string>());
}

void print_machine(const Json& machine) {
  print_line(paint(Colour::kBold, "Machine"));
  print_pair("coluber", machine["version"].get<std::string>());
  print_pair("cpu", machine["cpu"].get<std::string>());
  print_pair("isa", machine["isa"].get<std::string>());
  print_pair("threads", join(machine["threads"].get<int>(), " of ", counted(machine["cores"].get<int>(), "core")));
  std::string caches;
  for (const auto& [name, bytes] : machine["caches_bytes"].items()) {
    caches += (caches.empty() ? "" : ", ") + name + " " + human_bytes(bytes.get<std::int64_t>());
  }
  print_pair("caches", caches.empty() ? "unknown" : caches);
  print_pair("memory", human_bytes(machine["memory_bytes"].get<std::int64_t>()) + ", " +
                           human_bytes(machine["memory_available_bytes"].get<std::int64_t>()) + " available");
  for (const auto& [name, version] : machine["libraries"].items()) print_pair(name, version.get<std::string>());
  for (const Json& gpu : machine["gpus"]) print_pair(gpu["device"].get<std::string>(), gpu_text(gpu));
  if (!machine["no_gpu"].is_null()) print_pair("gpu", "none: " + machine["no_gpu"].get<std::string>());
  print_line("");
  print_line(paint(Colour::kBold, "Kernels") + " (--device " + machine["device"].get<std::string>() + ", --algo " +
             machine["algorithm"].get<std::string>() + ")");
  for (const Json& choice : machine["kernels"]) {
    std::string op = choice["op"].get<std::string>(), kernel = choice["kernel"].get<std::string>();
    op.resize(std::max<std::size_t>(op.size(), 28), ' ');
    kernel.resize(std::max<std::size_t>(kernel.size(), 10), ' ');
    print_line("  " + op + "  " + kernel + "  " + choice["why"].get<std::string>());
  }
}

// "backbone.layers.3.norm.weight" -> "backbone.layers.N.norm.weight"
std::string generic_name(const std::string& name) {
  const std::string marker = "layers.";
  const std::size_t begin = name.find(marker);
  if (begin == std::string::npos) return name;
  const std::size_t digit = begin + marker.size(), end = name.find('.', digit);
  return end == std::string::npos ? name : name.substr(0, digit) + "N" + name.substr(end);
}

struct Row {
  std::string name, shape, dtype;
  std::int64_t count = 0, bytes = 0;
};

std::vector<Row> table_of(const Model& model, bool every_tensor) {
  std::vector<Row> rows;
  for (const Parameter& parameter : model.parameters()) {
    const Tensor& value = parameter.var.value();
    const std::string name = every_tensor ? parameter.name : generic_name(parameter.name);
    auto row = std::find_if(rows.begin(), rows.end(), [&](const Row& r) {
      return r.name == name && r.shape == shape_text(value.shape()) && r.dtype == dtype_name(value.dtype());
    });
    if (row == rows.end()) {
      rows.push_back({name, shape_text(value.shape()), std::string(dtype_name(value.dtype())), 0, 0});
      row = rows.end() - 1;
    }
    ++row->count;
    row->bytes += value.numel() * dtype_size(value.dtype());
  }
  return rows;
}

void print_model(const Model& model, const std::string& name, const Tokenizer* tokenizer, bool every_tensor) {
  const ModelConfig& config = model.config();
  print_line(paint(Colour::kBold, "Model") + " " + name);
  print_pair("shape", join("d_model ", config.d_model, ", ", counted(config.n_layer, "layer"), ", d_inner ",
                           config.mixer.d_inner, ", d_state ", config.mixer.d_state, ", d_conv ", config.mixer.d_conv,
                           ", dt_rank ", config.mixer.dt_rank));
  print_pair("vocabulary", join(config.vocab_size, ", padded to ", config.padded_vocab_size(),
                                config.tie_embeddings ? ", head tied to the embedding" : ", head of its own"));
  if (tokenizer != nullptr) {
    print_pair("tokenizer", join(tokenizer_kind_name(tokenizer->kind()), ", ", tokenizer->vocab_size(), " tokens",
                                 tokenizer->lossless() ? ", lossless" : ", changes the text (normalisation)"));
  }
  print_pair("layout", std::string(checkpoint_layout_name(config.layout)));
  print_pair("parameters", human_count(static_cast<double>(model.num_parameters())) + " (" +
                               std::to_string(model.num_parameters()) + ")");
  print_pair("weights", human_bytes(model.size_bytes()));
  print_pair("state", human_bytes(model.make_state(1).size_bytes()) + " a sequence, whatever its length");
  print_line("");
  std::size_t widest = 0;
  const std::vector<Row> rows = table_of(model, every_tensor);
  for (const Row& row : rows) widest = std::max(widest, row.name.size());
  for (const Row& row : rows) {
    char line[320];
    std::snprintf(line, sizeof line, "  %-*s  %-18s %-5s x%-4lld %s", static_cast<int>(widest), row.name.c_str(),
                  row.shape.c_str(), row.dtype.c_str(), static_cast<long long>(row.count),
                  human_bytes(row.bytes).c_str());
    print_line(line);
  }
}

int run(const Options& options) {
  if (!options.model.empty() && !options.preset.empty()) {
    refuse(ErrorCode::kInvalidArgument, "info", "--model and --preset: expected one of them, got both");
  }
  const bool has_model = !options.model.empty() || !options.preset.empty();
  const std::string name = options.model.empty() ? options.preset : options.model;
  Model model;
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!options.model.empty()) {
    model = load_model(options.model, options);
    tokenizer = find_tokenizer(options, model);
  }
  if (!options.preset.empty()) {
    ModelConfig config = model_preset(options.preset);
    config.resolve();
    model = build_model(config, Init{0, DType::kF32, true});  // shapes only: no memory for weights
  }
  Json machine = machine_json(options);
  if (options.json) {
    if (has_model) machine["model"] = model_json(model, name);
    if (tokenizer) machine["model"]["tokenizer"] = tokenizer_json(*tokenizer);
    print_json(machine);
    return kExitOk;
  }
  print_machine(machine);
  if (has_model) {
    print_line("");
    print_model(model, name, tokenizer.get(), options.tensors);
  }
  return kExitOk;
}

}  // namespace

void register_info(CLI::App& root, Exit& exit) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = add_command(root, "info", "This machine, its kernels, and what a model consists of",
                                  {{"coluber info", "instruction set, threads, caches, libraries, GPUs, kernels"},
                                   {"coluber info --device cpu", "the kernels of the cpu where there is a GPU"},
                                   {"coluber info --model DIR", "and the shapes and memory of a model"},
                                   {"coluber info --preset mamba-130m --json", "of a published size, for a script"}});
  add_common_options(command, *options);
  add_device_option(command, *options);
  command.add_option("--model", options->model, "Folder of a model");
  command.add_option("--preset", options->preset, "A published size, or tiny");
  command.add_flag("--tensors", options->tensors, "Every tensor in a line of its own");
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
