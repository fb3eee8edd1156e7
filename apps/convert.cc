// `coluber convert`: a model from one layout, file format or dtype to another.
#include <unistd.h>

#include <charconv>
#include <filesystem>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/model_files.h"
#include "apps/terminal.h"
#include "coluber/model.h"
#include "core/atomic_file.h"
#include "core/check.h"

namespace coluber::apps {
namespace {

namespace fs = std::filesystem;

struct Options : CommonOptions {
  std::string model, out;
  std::string layout;  // empty: as it is
  std::string format = "safetensors";
  std::string dtype;  // empty: as they are
  std::string max_shard = "5GB";
  bool force = false;
};

CheckpointLayout parse_layout(const std::string& name) {
  for (const CheckpointLayout layout :
       {CheckpointLayout::kStateSpaces, CheckpointLayout::kHfMamba, CheckpointLayout::kHfFalconMamba}) {
    if (name == checkpoint_layout_name(layout)) return layout;
  }
  refuse_value(ErrorCode::kInvalidArgument, "convert", "--layout", "state_spaces, mamba or falcon_mamba", name);
}

// "5GB", "500MB", "2GiB", "1000000"
std::int64_t parse_bytes(const std::string& text) {
  static const std::vector<std::pair<std::string, double>> kUnits = {
      {"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}, {"", 1}};
  for (const auto& [unit, factor] : kUnits) {
    if (!text.ends_with(unit)) continue;
    const char* end = text.data() + text.size() - unit.size();
    double number = 0;
    const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
    const double bytes = number * factor;
    if (error == std::errc{} && stop == end && bytes >= 1 && bytes < 9e18) return static_cast<std::int64_t>(bytes);
    break;
  }
  refuse_value(ErrorCode::kInvalidArgument, "convert", "--max-shard", "a size such as 5GB or 500MB", text);
}

bool is_weights(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") ||
         (name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".bin.index.json")));
}

bool holds_model(const fs::path& folder) {
  std::error_code ignored;
  if (fs::exists(folder / "config.json", ignored)) return true;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (is_weights(entry.path())) return true;
  }
  return false;
}

void check_target(const Options& options) {
  std::error_code ignored;
  if (options.out.empty()) refuse_value(ErrorCode::kInvalidArgument, "convert", "--out", "a folder", "an empty name");
  if (fs::equivalent(options.model, options.out, ignored)) {
    refuse_value(ErrorCode::kInvalidArgument, "convert", "--out", "another folder than --model", options.out);
  }
  if (fs::exists(options.out, ignored) && !fs::is_directory(options.out, ignored)) {
    refuse_value(ErrorCode::kInvalidArgument, "convert", "--out", "a folder", options.out + ", a file");
  }
  if (!options.force && holds_model(options.out)) {
    refuse_value(ErrorCode::kInvalidArgument, "convert", "--out", "a folder without a model", options.out + " with one",
                 "--force overwrites it");
  }
}

// A folder beside `out` that takes its place when all of it is written, and goes when it is not.
class NewFolder {
 public:
  explicit NewFolder(const std::string& out) : out_(fs::path(out) / "") {
    out_ = out_.parent_path();  // without a slash at the end
    path_ = out_.string() + ".part-" + std::to_string(::getpid());
    ensure_directory(path_.string());
  }
  ~NewFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  std::string path() const { return path_.string(); }

  // One rename where nothing is there. Else file by file, without a config.json in between: a folder without one is
  // no model, so none is ever taken for whole that is not.
  void move_into_place() const {
    std::error_code error;
    fs::rename(path_, out_, error);
    if (!error) return;
    try {
      fs::remove(out_ / "config.json");
      for (const fs::directory_entry& entry : fs::directory_iterator(out_)) {
        if (is_weights(entry.path())) fs::remove(entry.path());
      }
      for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
        if (entry.path().filename() != "config.json") fs::rename(entry.path(), out_ / entry.path().filename());
      }
      fs::rename(path_ / "config.json", out_ / "config.json");
    } catch (const fs::filesystem_error& failed) {
      refuse(ErrorCode::kIo, "convert", join("cannot write to ", out_.string(), ": ", failed.code().message()));
    }
  }

 private:
  fs::path out_, path_;
};

// Tokenizers and settings of generation do not depend on the layout.
void copy_tokenizer_files(const std::string& from, const std::string& to) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                           "generation_config.json"}) {
    const fs::path source = fs::path(from) / name;
    if (fs::is_regular_file(source)) write_file_atomically((fs::path(to) / name).string(), read_input(source.string()));
  }
}

int run(const Options& options) {
  SaveOptions save;
  save.max_shard_bytes = parse_bytes(options.max_shard);
  save.safetensors = options.format == "safetensors";
  if (!options.dtype.empty()) save.dtype = parse_dtype(options.dtype);
  if (!options.layout.empty()) save.layout = parse_layout(options.layout);
  check_target(options);
  // In f64 when it is asked for: else what the file has beyond f32 would be lost.
  const Model model = load_model(options.model, options, save.dtype == DType::kF64 ? save.dtype : std::nullopt);
  if (options.layout.empty()) save.layout = model.config().layout;
  const NewFolder folder(options.out);
  model.save(folder.path(), save);
  copy_tokenizer_files(options.model, folder.path());
  folder.move_into_place();
  const std::string layout(checkpoint_layout_name(save.layout));
  if (options.json) {
    print_json({{"model", options.model},
                {"out", options.out},
                {"layout", layout},
                {"format", options.format},
                {"num_parameters", model.num_parameters()}});
  } else if (!options.quiet) {
    print_line("wrote " + options.out + ": " + human_count(static_cast<double>(model.num_parameters())) +
               " parameters, layout " + layout + ", " + options.format);
  }
  return kExitOk;
}

}  // namespace

void register_convert(CLI::App& root, Exit& exit) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = add_command(
      root, "convert", "Write a model in another layout, file format or dtype",
      {{"coluber convert --model mamba-130m --out mamba-130m-hf --layout mamba", "state-spaces to Hugging Face"},
       {"coluber convert --model DIR --out DIR16 --dtype bf16", "half the bytes"},
       {"coluber convert --model DIR --out DIRBIN --format bin --layout state_spaces", "a pytorch_model.bin"}});
  add_output_options(command, *options);
  command.add_option("--model", options->model, "Folder of the model")->required();
  command.add_option("--out", options->out, "Folder to write")->required();
  command.add_option("--layout", options->layout, "state_spaces, mamba or falcon_mamba; without it: as it is");
  command.add_option("--format", options->format, "safetensors or bin")
      ->check(CLI::IsMember({"safetensors", "bin"}))
      ->capture_default_str();
  add_dtype_option(command, "--dtype", options->dtype,
                   "Of all tensors; without it: 16-bit matrices stay, the rest is f32", {"f32", "bf16", "f16", "f64"});
  command.add_option("--max-shard", options->max_shard, "Most bytes in one safetensors file")->capture_default_str();
  command.add_flag("--force", options->force, "Overwrite a model that is there");
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
