#include "train/metrics.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace coluber {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse_io(const std::string& path) {
  refuse(ErrorCode::kIo, "metrics", join("cannot write ", path, ": ", std::strerror(errno)));
}

MetricsHistory read_history(const std::string& path, std::int64_t bytes) {
  MetricsHistory history;
  std::ifstream in(path, std::ios::binary);
  std::int64_t read = 0;
  for (std::string line; read < bytes && std::getline(in, line);) {
    read += static_cast<std::int64_t>(line.size()) + 1;
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
  std::error_code error;
  const std::uintmax_t there = std::filesystem::file_size(path, error);
  if (!error && keep_bytes > 0 && there >= static_cast<std::uintmax_t>(keep_bytes)) {
    if (history != nullptr) *history = read_history(path, keep_bytes);
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(keep_bytes), error);
    if (error) refuse(ErrorCode::kIo, "metrics", join("cannot cut ", path, ": ", error.message()));
    size_bytes_ = keep_bytes;
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

void MetricsFile::write_line(const std::string& line) {
  if (!(file_ << line << '\n' << std::flush)) refuse_io(path_);
  size_bytes_ += static_cast<std::int64_t>(line.size()) + 1;
}

}  // namespace coluber
