#include "train/checkpoint.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/check.h"
#include "io/safetensors.h"
#include "train/file_checksum.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "coluber.trainer/1";
constexpr const char* kStateFile = "trainer.json";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kUnfinishedPrefix = ".step-";

std::string checkpoints_folder(const std::string& out) {
  return out + "/checkpoints";
}

[[noreturn]] void refuse_io(std::string_view what, const std::error_code& error) {
  refuse(ErrorCode::kIo, "checkpoint", join("cannot ", what, ": ", error.message()));
}

[[noreturn]] void refuse_corrupt(std::string_view checkpoint, std::string_view what, std::string_view expected,
                                 std::string_view got) {
  refuse_value(ErrorCode::kCorruptFile, "checkpoint", join(checkpoint, "/", what), expected, got);
}

// --- trainer.json ----------------------------------------------------------------------------------------------------
Json schedule_to_json(const Schedule& schedule) {
  return {{"kind", schedule_name(schedule.kind)},
          {"lr", schedule.lr},
          {"lr_min", schedule.lr_min},
          {"warmup_steps", schedule.warmup_steps},
          {"total_steps", schedule.total_steps},
          {"decay_steps", schedule.decay_steps}};
}

Schedule schedule_from_json(const Json& json) {
  Schedule schedule;
  schedule.kind = schedule_from_name(json.at("kind").get<std::string>());
  schedule.lr = json.at("lr").get<double>();
  schedule.lr_min = json.at("lr_min").get<double>();
  schedule.warmup_steps = json.at("warmup_steps").get<std::int64_t>();
  schedule.total_steps = json.at("total_steps").get<std::int64_t>();
  schedule.decay_steps = json.at("decay_steps").get<std::int64_t>();
  return schedule;
}

Json state_to_json(const TrainerState& state) {
  return {{"format", kFormat},
          {"step", state.step},
          {"next_batch", state.next_batch},
          {"tokens", state.tokens},
          {"seconds", state.seconds},
          {"seed", state.seed},
          {"grad_accum", state.grad_accum},
          {"schedule", schedule_to_json(state.schedule)},
          {"metrics_bytes", state.metrics_bytes},
          {"data", state.data},
          {"settings", state.settings}};
}

TrainerState state_from_json(const Json& json) {
  TrainerState state;
  state.step = json.at("step").get<std::int64_t>();
  state.next_batch = json.at("next_batch").get<std::int64_t>();
  state.tokens = json.at("tokens").get<std::int64_t>();
  state.seconds = json.at("seconds").get<double>();
  state.seed = json.at("seed").get<std::uint64_t>();
  state.grad_accum = json.at("grad_accum").get<std::int64_t>();
  state.schedule = schedule_from_json(json.at("schedule"));
  state.metrics_bytes = json.at("metrics_bytes").get<std::int64_t>();
  state.data = json.value("data", std::string());  // absent in the first checkpoints
  state.settings = json.at("settings").get<std::string>();
  return state;
}

// A path in `settings` may be anything; what is not UTF-8 becomes U+FFFD.
std::string dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// The file ends in a checksum of its own, over its text without it.
std::string seal(const Json& json) {
  Json sealed = json;
  sealed["checksum"] = checksum(dump(json));
  return dump(sealed, 2) + "\n";
}

Json unseal(const std::string& checkpoint) {
  std::ifstream in(checkpoint + "/" + kStateFile, std::ios::binary);
  if (!in) {
    refuse_value(ErrorCode::kNotFound, "checkpoint", checkpoint, join("a folder with ", kStateFile), "none");
  }
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("format", Json()) != Json(kFormat) || !json.contains("checksum") ||
      !json["checksum"].is_number_unsigned()) {
    refuse_corrupt(checkpoint, kStateFile, join("a whole file of format ", kFormat),
                   join(text.size(), " bytes that are not"));
  }
  const auto expected = json["checksum"].get<std::uint64_t>();
  json.erase("checksum");
  if (checksum(dump(json)) != expected) refuse_corrupt(checkpoint, kStateFile, "the text as written", "another");
  return json;
}

// --- folders ---------------------------------------------------------------------------------------------------------
Json digest_and_sync(const std::string& folder) {
  Json files = Json::object();
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    sync_path(path);
    const FileDigest digest = digest_file(path);
    files[name] = {{"bytes", digest.size_bytes}, {"checksum", digest.checksum}};
  }
  return files;
}

void check_files(const std::string& checkpoint, const Json& files) {
  for (const auto& [name, expected] : files.items()) {
    const std::string path = checkpoint + "/" + name;
    if (!fs::exists(path)) refuse_corrupt(checkpoint, name, "a file", "none");
    const FileDigest digest = digest_file(path);
    const auto bytes = expected.at("bytes").get<std::int64_t>();
    if (digest.size_bytes != bytes) {
      refuse_corrupt(checkpoint, name, join(bytes, " bytes"), join(digest.size_bytes));
    }
    if (digest.checksum != expected.at("checksum").get<std::string>()) {
      refuse_corrupt(checkpoint, name, join("checksum ", expected.at("checksum").get<std::string>()), digest.checksum);
    }
  }
}

// Goes when it was not renamed: a checkpoint that could not be written leaves nothing.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {
    remove();
    ensure_directory(path_);
  }
  ~TemporaryFolder() { remove(); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  void remove() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string path_;
};

void write_moments(const std::string& path, const AdamW& optimizer) {
  TensorMap tensors;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
    const std::string& name = optimizer.parameters()[i].name;
    tensors.emplace("exp_avg." + name, optimizer.moments()[i].exp_avg);
    tensors.emplace("exp_avg_sq." + name, optimizer.moments()[i].exp_avg_sq);
  }
  write_safetensors(path, tensors, {{"format", "coluber.adamw/1"}});
}

// Those of the file, in order of the parameters; throws when one does not fit.
std::vector<AdamW::Moments> saved_moments(const SafetensorsFile& file, const std::string& path,
                                          const AdamW& optimizer) {
  const auto find = [&](const std::string& name, const Tensor& like) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end())
      refuse_value(ErrorCode::kCorruptFile, "checkpoint", path, name, "no such tensor");
    if (!(found->second.shape() == like.shape()) || found->second.dtype() != like.dtype()) {
      refuse_value(ErrorCode::kInvalidArgument, "checkpoint", name + " in " + path,
                   join(like.shape().to_string(), " ", dtype_name(like.dtype())),
                   join(found->second.shape().to_string(), " ", dtype_name(found->second.dtype())));
    }
    return found->second;
  };
  std::vector<AdamW::Moments> moments;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
    const std::string& name = optimizer.parameters()[i].name;
    moments.push_back({find("exp_avg." + name, optimizer.moments()[i].exp_avg),
                       find("exp_avg_sq." + name, optimizer.moments()[i].exp_avg_sq)});
  }
  return moments;
}

Parameters saved_parameters(const std::string& checkpoint, const Parameters& parameters) {
  const DType dtype = parameters.front().var.value().dtype();
  Parameters saved = Model::load(checkpoint, {.dtype = dtype}).parameters();
  check_equal("checkpoint", join("parameters in ", checkpoint), static_cast<long long>(parameters.size()),
              static_cast<long long>(saved.size()), "it belongs to another model");
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const Shape& shape = saved[i].var.value().shape();
    if (saved[i].name != parameters[i].name || !(shape == parameters[i].var.value().shape())) {
      refuse_value(ErrorCode::kInvalidArgument, "checkpoint", join(saved[i].name, " in ", checkpoint),
                   join(parameters[i].name, " ", parameters[i].var.value().shape().to_string()), shape.to_string(),
                   "it belongs to another model");
    }
  }
  return saved;
}

// A whole folder in the place of another, or of none.
void put_in_place(const std::string& folder, const std::string& path) {
  if (::renameat2(AT_FDCWD, folder.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) return;
  std::error_code error;  // nothing to exchange with, or a file system that cannot
  fs::remove_all(path, error);
  if (error) refuse_io("replace " + path, error);
  fs::rename(folder, path, error);
  if (error) refuse_io(join("rename ", folder, " to ", path), error);
}

// What a run that was killed while it wrote a checkpoint left behind.
void remove_unfinished(const std::string& parent) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename();
    if (name.rfind(kUnfinishedPrefix, 0) == 0) fs::remove_all(entry.path(), ignored);
  }
}

void remove_old(const std::string& out, std::int64_t keep) {
  const auto all = list_checkpoints(out);
  for (std::size_t i = 0; keep > 0 && i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    std::error_code ignored;  // one that stays is no harm
    fs::remove_all(all[i].second, ignored);
  }
}

}  // namespace

std::string write_checkpoint(const std::string& out, const Model& model, const AdamW& optimizer,
                             const TrainerState& state, std::int64_t keep,
                             const std::function<void(const std::string& folder)>& add_files) {
  const std::string parent = checkpoints_folder(out);
  const std::string final_path = join(parent, "/", kPrefix, state.step);
  ensure_directory(parent);
  remove_unfinished(parent);
  const TemporaryFolder folder(join(parent, "/", kUnfinishedPrefix, state.step, ".new"));
  SaveOptions save;
  save.layout = model.config().layout;
  model.save(folder.path(), save);
  write_moments(folder.path() + "/" + kOptimizerFile, optimizer);
  if (add_files) add_files(folder.path());
  Json json = state_to_json(state);
  json["files"] = digest_and_sync(folder.path());
  write_file_atomically(folder.path() + "/" + kStateFile, seal(json));
  sync_path(folder.path());

  put_in_place(folder.path(), final_path);  // one is there when the same step was saved before
  sync_path(parent);
  remove_old(out, keep);
  return final_path;
}

TrainerState read_trainer_state(const std::string& checkpoint) {
  const Json json = unseal(checkpoint);
  try {
    check_files(checkpoint, json.at("files"));
    return state_from_json(json);
  } catch (const Json::exception& error) {
    refuse_corrupt(checkpoint, kStateFile, "every field in its type", error.what());
  }
}

void read_checkpoint(const std::string& checkpoint, const TrainerState& state, const Model& model, AdamW& optimizer) {
  const std::string path = checkpoint + "/" + kOptimizerFile;
  const Parameters parameters = model.parameters(), saved = saved_parameters(checkpoint, parameters);
  const SafetensorsFile file = SafetensorsFile::open(path);
  const std::vector<AdamW::Moments> moments = saved_moments(file, path, optimizer);
  for (std::size_t i = 0; i < parameters.size(); ++i) {  // nothing is refused from here on
    parameters[i].var.set_value(saved[i].var.value().to(parameters[i].var.value().device()));
    optimizer.moments()[i].exp_avg.copy_from(moments[i].exp_avg);
    optimizer.moments()[i].exp_avg_sq.copy_from(moments[i].exp_avg_sq);
  }
  optimizer.set_num_steps(state.step);
}

void set_newer_checkpoints_aside(const std::string& out, std::int64_t step) {
  for (const auto& [number, folder] : list_checkpoints(out)) {
    if (number <= step) continue;
    std::error_code error;
    fs::remove_all(folder + ".old", error);
    fs::rename(folder, folder + ".old", error);
    if (error) refuse_io(join("rename ", folder, " to ", folder, ".old"), error);
  }
}

std::vector<std::pair<std::int64_t, std::string>> list_checkpoints(const std::string& out) {
  std::vector<std::pair<std::int64_t, std::string>> found;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints_folder(out), ignored)) {
    const std::string name = entry.path().filename();
    if (name.rfind(kPrefix, 0) != 0) continue;
    std::int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
    if (error == std::errc() && stop == end) found.emplace_back(step, entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string newest_checkpoint(const std::string& out) {
  const auto all = list_checkpoints(out);
  if (all.empty()) {
    refuse_value(ErrorCode::kNotFound, "checkpoint", checkpoints_folder(out), "a folder step-N", "none");
  }
  try {
    read_trainer_state(all.back().second);
  } catch (const Error& newest) {
    const std::string_view sentence =
        std::string_view(newest.what()).substr(newest.op().size() + 3);  // without "[op] "
    for (std::size_t i = all.size() - 1; i-- > 0;) {
      try {
        read_trainer_state(all[i].second);
      } catch (const Error&) {
        continue;
      }
      refuse(ErrorCode::kCorruptFile, "checkpoint",
             join(sentence, " (the one before is whole: resume from ", all[i].second, ")"));
    }
    refuse(ErrorCode::kCorruptFile, "checkpoint", join(sentence, " (no other is whole)"));
  }
  return all.back().second;
}

std::string checkpoint_settings(const std::string& checkpoint) {
  return read_trainer_state(checkpoint).settings;
}

}  // namespace coluber
