#include "apps/train_setup.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "apps/machine.h"
#include "apps/terminal.h"
#include "apps/train_report.h"
#include "core/atomic_file.h"
#include "core/check.h"
#include "core/hash.h"
#include "models/build.h"

namespace coluber::apps {
namespace {

namespace fs = std::filesystem;

constexpr double kDefaultSeconds = 300;

void make_absolute(std::vector<std::string>& paths) {  // so that a training resumes from any working directory
  for (std::string& path : paths) {
    if (path.empty()) refuse_value(ErrorCode::kInvalidArgument, "train", "--data", "a file", "an empty name");
    path = fs::absolute(path).lexically_normal().string();
  }
}

// Before any of it is allocated: parameters, gradients and two moments in f32; ids, targets and resets of a step.
void check_memory(const TrainFlags& options, const ModelConfig& config) {
  constexpr double kParameterBytes = 16, kTokenBytes = 9;
  const std::int64_t parameters = build_model(config, {0, DType::kF32, true}).num_parameters();
  const double tokens = static_cast<double>(options.batch) * static_cast<double>(options.seqlen) *
                        static_cast<double>(options.grad_accum);
  const double bytes = kParameterBytes * static_cast<double>(parameters) + kTokenBytes * tokens;
  const std::int64_t available = available_memory_bytes(options.chosen_device());
  if (available <= 0 || bytes <= static_cast<double>(available)) return;
  refuse_value(ErrorCode::kOutOfMemory, "train", "free memory",
               join(human_bytes(static_cast<std::int64_t>(std::min(bytes, 9e18))), " for ",
                    human_count(static_cast<double>(parameters)), " parameters with gradients and moments, and ",
                    human_count(tokens), " tokens of a step"),
               human_bytes(available), "take a smaller shape, --batch or --grad-accum");
}

}  // namespace

TrainOptions learning_options(const TrainFlags& options) {
  TrainOptions train;
  train.schedule.kind = schedule_from_name(options.schedule);
  train.schedule.lr = options.lr;
  train.schedule.lr_min = options.lr * options.lr_min_share;
  train.schedule.warmup_steps = options.warmup;
  train.adamw.weight_decay = options.weight_decay;
  train.adamw.clip = options.clip;
  train.max_steps = options.max_steps;
  train.max_seconds = options.max_steps == 0 && options.max_seconds == 0 ? kDefaultSeconds : options.max_seconds;
  train.grad_accum = options.grad_accum;
  train.compute = parse_dtype(options.dtype);
  train.recompute = recompute_from_name(options.recompute);
  train.cuda_graph = options.cuda_graph == "auto";
  train.seed = options.seed;
  train.eval_every = options.eval_every;
  train.save_every = options.save_every;
  train.sample_every = options.sample_every;
  train.keep = options.keep;
  return train;
}

std::string take_checkpoint(TrainFlags& options, const FlagBindings& bindings) {
  make_absolute(options.data);
  make_absolute(options.heldout);
  if (fs::exists(options.tokenizer)) options.tokenizer = fs::absolute(options.tokenizer).lexically_normal().string();
  if (!bindings.was_given("--resume")) return {};
  const std::string from = options.resume.empty() ? options.out : options.resume;
  if (from.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--resume", "a folder, here or as --out", "none");
  }
  const bool is_checkpoint = fs::exists(from + "/trainer.json");
  const std::string checkpoint = is_checkpoint ? from : newest_checkpoint(from);
  if (options.out.empty()) {
    fs::path folder = fs::absolute(from).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();  // OUT/checkpoints/step-N/, as shells complete it
    options.out = is_checkpoint ? folder.parent_path().parent_path().string() : from;
  }
  const Json settings = Json::parse(checkpoint_settings(checkpoint), nullptr, false);
  if (!settings.is_object()) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "settings in " + checkpoint, "those of coluber train",
                 "those of another program");
  }
  bindings.restore(settings);
  return checkpoint;
}

void check_train_flags(const TrainFlags& options) {
  learning_options(options).check();
  train_config(options, 256);
}

std::shared_ptr<TrainingLock> prepare_out(const TrainFlags& options, bool resuming) {
  if (options.out.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--out", "a folder for the model", "none");
  }
  ensure_directory(options.out);
  if (::access(options.out.c_str(), W_OK) != 0) {
    refuse_value(ErrorCode::kIo, "train", "--out " + options.out, "a folder that can be written to",
                 std::strerror(errno));
  }
  std::shared_ptr<TrainingLock> lock = lock_training(options.out);
  if (resuming) return lock;
  const std::string checkpoints = options.out + "/checkpoints";
  const bool trained = fs::exists(checkpoints);
  if (trained && options.overwrite) return lock;
  if (trained) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--out " + options.out, "a folder without a training",
                 checkpoints, "--resume goes on with it, --overwrite removes it first");
  } else if (fs::exists(options.out + "/config.json")) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--out " + options.out, "a folder without a model",
                 "config.json", "choose another folder");
  }
  return lock;
}

void remove_earlier_training(const std::string& out, const TrainData& data) {
  std::vector<fs::path> old;
  for (const char* name : {"checkpoints", "config.json", "metrics.jsonl"}) old.push_back(fs::path(out) / name);
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(out) / "tokens", error)) {
    if (!data.reads(entry.path().string())) old.push_back(entry.path());
  }
  for (const fs::path& path : old) {
    fs::remove_all(path, error);
    if (error) refuse(ErrorCode::kIo, "train", join("cannot remove ", path.string(), ": ", error.message()));
  }
}

TrainOptions train_options(const TrainFlags& options, const FlagBindings& bindings, const TrainData& data) {
  TrainOptions train = learning_options(options);
  train.eval_batches = data.num_heldout_batches(options);
  train.bytes_per_token = data.bytes_per_token;
  if (!data.tokenizer) train.sample_every = 0;
  train.out = options.out;
  train.name = options.name;
  if (options.name.empty() && !options.out.empty()) {
    train.name = fs::absolute(options.out).lexically_normal().filename().string();
  }
  train.data =
      join(data.train->num_tokens(), " tokens with fingerprint ", hexadecimal(data.train->stream().fingerprint()));
  train.settings = bindings.to_json().dump(-1, ' ', false, Json::error_handler_t::replace);
  train.card_rows = {{"Data", join(file_names(options.data), ", ", data.train->num_tokens(), " tokens")},
                     {"Tokenizer", vocabulary_text(data)},
                     {"Batch", join(counted(options.batch * options.grad_accum, "sequence"), " of ",
                                    counted(options.seqlen, "token"))}};
  return train;
}

Model create_model(const TrainFlags& options, const TrainData& data) {
  ModelConfig config = train_config(options, data.vocab_size());
  if (data.tokenizer) {
    config.bos_token_id = data.tokenizer->bos_id();
    config.eos_token_id = data.tokenizer->eos_id();
  }
  check_memory(options, config);
  return Model::create(config, options.seed).to(options.chosen_device());
}

}  // namespace coluber::apps
