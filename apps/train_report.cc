#include "apps/train_report.h"

#include <cstdio>
#include <filesystem>

#include "apps/bench.h"
#include "apps/machine.h"
#include "coluber/generate.h"
#include "core/check.h"

namespace coluber::apps {
namespace {

constexpr double kLossMemory = 0.95;  // of the running mean that is shown: about the last 20 steps
constexpr double kSampleTemperature = 0.8;

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string count(std::int64_t n) {
  return human_count(static_cast<double>(n));
}

std::string indented(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c;
    if (c == '\n') out += "      ";
  }
  return out;
}

void show(const std::string& line) {  // at once, also into a file that somebody watches
  print_line(line);
  std::fflush(stdout);
}

}  // namespace

std::string file_names(const std::vector<std::string>& paths) {
  std::string names;
  for (const std::string& path : paths) {
    names += (names.empty() ? "" : ", ") + std::filesystem::path(path).filename().string();
  }
  return names;
}

std::string vocabulary_text(const TrainData& data) {
  const std::string kind = data.tokenizer ? std::string(tokenizer_kind_name(data.tokenizer->kind())) : "token file";
  return join(kind, ", ", data.vocab_size(), " tokens");
}

TrainReport::TrainReport(Context& ctx, const Model& model, const TrainFlags& flags, const TrainData& data,
                         double matrix_rate)
    : ctx_(ctx), model_(model), flags_(flags), data_(data), prompts_(flags.sample_prompts), matrix_rate_(matrix_rate) {
  if (prompts_.empty()) prompts_ = {first_words(data)};
}

TrainCallbacks TrainReport::callbacks() {
  TrainCallbacks calls;
  calls.on_step = [this](const StepReport& report) { step(report); };
  calls.on_eval = [this](const EvalReport& report) { evaluation(report); };
  calls.on_sample = [this](std::int64_t step) { sample(step); };
  calls.on_checkpoint = [this](const std::string& folder) { checkpoint(folder); };
  calls.add_files = [this](const std::string& folder) {
    if (data_.tokenizer) data_.tokenizer->save(folder);
  };
  return calls;
}

void TrainReport::print_beginning(const TrainEstimate& estimate, std::int64_t memory_bytes) {
  const ModelConfig& config = model_.config();
  show(join("model     ", count(model_.num_parameters()), " parameters: ", counted(config.n_layer, "layer"),
            " of width ", config.d_model, "; ", vocabulary_text(data_)));
  show(join("data      ", count(data_.train->num_tokens()), " tokens of ", file_names(flags_.data),
            data_.heldout ? join(", ", count(data_.heldout->num_tokens()), " held out") : std::string()));
  show(join("estimate  ", human_bytes(memory_bytes), " of ", memory_name(), ", ",
            human_duration(estimate.total_seconds), " for ", counted(estimate.total_steps - steps_before_, "step"),
            " of ", counted(tokens_per_step(), "token"),
            steps_before_ > 0 ? join(", after the ", steps_before_, " done") : std::string()));
  if (!model_.device().is_cpu()) {
    show(join("device    ", device_name(model_.device()), ", steps ",
              estimate.cuda_graph ? "as a CUDA graph" : "kernel by kernel"));
  }
}

std::string TrainReport::memory_name() const {
  return model_.device().is_cpu() ? "memory" : join("memory of ", device_name(model_.device()));
}

void TrainReport::begin(const TrainEstimate& estimate, std::int64_t memory_bytes, std::int64_t steps_before) {
  steps_before_ = steps_before;
  const std::int64_t steps = estimate.total_steps - steps_before;
  if (flags_.json) {
    print_json({{"event", "estimate"},
                {"parameters", model_.num_parameters()},
                {"parameter_bytes", estimate.parameter_bytes},
                {"optimizer_bytes", estimate.optimizer_bytes},
                {"tensor_bytes", estimate.peak_bytes},
                {"memory_bytes", memory_bytes},
                {"device", device_name(model_.device())},
                {"recompute", flags_.recompute},
                {"cuda_graph", estimate.cuda_graph},
                {"steps", steps},
                {"step_seconds", estimate.step_seconds},
                {"seconds", estimate.total_seconds}});
  } else if (!flags_.quiet) {
    print_beginning(estimate, memory_bytes);
  }
  progress_.emplace("training", "tok", steps * tokens_per_step(), flags_.quiet || flags_.json);
}

double TrainReport::flop_per_s() const {
  return 6 * (layer_parameters(model_) + static_cast<double>(model_.head().value().numel())) * tokens_per_s();
}

void TrainReport::step(const StepReport& report) {
  last_ = report;
  trained_tokens_ += static_cast<double>(tokens_per_step());
  trained_seconds_ += static_cast<double>(tokens_per_step()) / report.tokens_per_s;
  loss_ = loss_ == 0 ? report.loss : kLossMemory * loss_ + (1 - kLossMemory) * report.loss;
  if (flags_.json) {
    print_json({{"event", "step"},
                {"step", report.step},
                {"total_steps", report.total_steps},
                {"loss", report.loss},
                {"lr", report.lr},
                {"grad_norm", report.grad_norm},
                {"tokens", report.tokens},
                {"seconds", report.seconds},
                {"tokens_per_s", report.tokens_per_s}});
  }
  progress_->set_total((report.total_steps - steps_before_) * tokens_per_step());
  progress_->update((report.step - steps_before_) * tokens_per_step(), "loss " + fixed(loss_, 3));
}

void TrainReport::evaluation(const EvalReport& report) {
  if (flags_.json) {
    Json row{{"event", "eval"},
             {"step", report.step},
             {"heldout_loss", report.loss.mean()},
             {"heldout_tokens", report.loss.num_tokens}};
    if (report.bits_per_byte > 0) row["bits_per_byte"] = report.bits_per_byte;
    print_json(row);
  } else if (!flags_.quiet) {
    progress_->clear();
    char line[160];
    std::snprintf(line, sizeof line, "  step %6lld %8s   loss %6.3f   held-out %6.3f",
                  static_cast<long long>(report.step), human_duration(last_.seconds).c_str(), loss_,
                  report.loss.mean());
    show(report.bits_per_byte > 0 ? join(line, "   ", fixed(report.bits_per_byte, 3), " bits per byte") : line);
  }
}

void TrainReport::sample(std::int64_t step) {
  if (flags_.quiet) return;
  std::vector<std::vector<std::int32_t>> ids;
  for (const std::string& prompt : prompts_) ids.push_back(data_.tokenizer->encode(prompt));
  GenerateOptions options;
  options.sampling.temperature = kSampleTemperature;
  options.sampling.seed = flags_.seed;
  options.max_new_tokens = flags_.sample_tokens;
  const std::vector<Generation> texts = generate(ctx_, model_, *data_.tokenizer, ids, options);
  progress_->clear();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (flags_.json) {
      print_json({{"event", "sample"}, {"step", step}, {"prompt", prompts_[i]}, {"text", texts[i].text}});
    } else {
      show("      " + paint(Colour::kBold, without_controls(prompts_[i])) +
           paint(Colour::kDim, indented(without_controls(texts[i].text))));
    }
  }
}

void TrainReport::checkpoint(const std::string& folder) {
  checkpoint_ = folder;
  if (flags_.json) print_json({{"event", "checkpoint"}, {"step", last_.step}, {"folder", folder}});
}

void TrainReport::end(TrainEnd how, std::int64_t step) {
  progress_.reset();
  const bool stopped = how == TrainEnd::kStopped;
  if (flags_.json) {
    Json row{{"event", "end"},
             {"stopped", stopped},
             {"step", step},
             {"seconds", last_.seconds},
             {"tokens_per_s", tokens_per_s()},
             {"peak_rss_bytes", peak_rss_bytes()},
             {"peak_memory_bytes", peak_memory_bytes(model_.device())},
             {"checkpoint", checkpoint_},
             {"model", flags_.out}};
    if (matrix_rate_ > 0) {
      row["model_flop_per_s"] = flop_per_s();
      row["matrix_share"] = flop_per_s() / matrix_rate_;
    }
    print_json(row);
  } else if (!flags_.quiet && !stopped) {
    show(join("done      ", counted(step, "step"), " in ", human_duration(last_.seconds), ", ",
              human_bytes(peak_memory_bytes(model_.device())), " of ", memory_name(), " at most"));
    if (matrix_rate_ > 0) {
      show(join("speed     ", count(static_cast<std::int64_t>(tokens_per_s())), " tok/s; ",
                fixed(flop_per_s() * 1e-12, 1), " TFLOP/s of the model, ", fixed(100 * flop_per_s() / matrix_rate_, 1),
                "% of the ", fixed(matrix_rate_ * 1e-12, 0), " that a product of this dtype reaches here"));
    }
    show(join("model     ", flags_.out, ", with README.md, loss.svg and metrics.jsonl"));
  }
  if (stopped && !flags_.json) {
    std::fprintf(stderr, "Stopped at step %lld and saved. `coluber train --resume %s` goes on.\n",
                 static_cast<long long>(step), flags_.out.c_str());
  }
}

}  // namespace coluber::apps
