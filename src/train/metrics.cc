#include "train/metrics.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "train/file_checksum.h"

namespace coluber {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse_io(const std::string& path) {
  refuse(ErrorCode::kIo, "metrics", join("cannot write ", path, ": ", std::strerror(errno)));
}

// Whole lines among the first `bytes`; `size_bytes` becomes how long they are together.
MetricsHistory read_history(const std::string& path, std::int64_t bytes, std::int64_t* size_bytes) {
  MetricsHistory history;
  std::ifstream in(path, std::ios::binary);
  *size_bytes = 0;
  for (std::string line; std::getline(in, line) && !in.eof();) {  // at the end of the file: a line that was cut
    const std::int64_t end = *size_bytes + static_cast<std::int64_t>(line.size()) + 1;
    if (end > bytes) break;
    *size_bytes = end;
    const Json row = Json::parse(line, nullptr, false);
    if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer()) continue;
    const auto step = row["step"].get<std::int64_t>();
    if (row.contains("loss") && row["loss"].is_number()) history.train.push_back({step, row["loss"].get<double>()});
    if (row.contains("heldout_loss") && row["heldout_loss"].is_number()) {
      history.heldout.push_back({step, row["heldout_loss"].get<double>()});
    }
  }
  return history;
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, std::int64_t keep_bytes, MetricsHistory* history) : path_(path) {
  if (keep_bytes > 0 && std::filesystem::exists(path)) {
    const MetricsHistory kept = read_history(path, keep_bytes, &size_bytes_);
    if (history != nullptr) *history = kept;
    std::error_code error;
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(size_bytes_), error);
    if (error) refuse(ErrorCode::kIo, "metrics", join("cannot cut ", path, ": ", error.message()));
  }
  file_.open(path, std::ios::binary | (size_bytes_ > 0 ? std::ios::app : std::ios::trunc));
  if (!file_) refuse_io(path);
}

void MetricsFile::write(const StepReport& report) {
  write_line(Json{{"step", report.step},
                  {"loss", report.loss},
                  {"lr", report.lr},
                  {"grad_norm", report.grad_norm},
                  {"tokens", report.tokens},
                  {"seconds", report.seconds},
                  {"tokens_per_s", report.tokens_per_s}}
                 .dump());
}

void MetricsFile::write(const EvalReport& report) {
  Json row{{"step", report.step}, {"heldout_loss", report.loss.mean()}, {"heldout_tokens", report.loss.num_tokens}};
  if (report.bits_per_byte > 0) row["bits_per_byte"] = report.bits_per_byte;
  write_line(row.dump());
}

void MetricsFile::sync() const {
  sync_path(path_);
}

void MetricsFile::write_line(const std::string& line) {
  if (!(file_ << line << '\n' << std::flush)) refuse_io(path_);
  size_bytes_ += static_cast<std::int64_t>(line.size()) + 1;
}

}  // namespace coluber
