// The flags of `coluber train`, and how they survive in a checkpoint.
//
// Every flag is bound once: to its variable, to the command line and to a key of the settings that trainer.json keeps.
// `--resume` takes from there what the command line does not state, so `coluber train --resume OUT` needs nothing else.
#pragma once

#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "apps/cli.h"
#include "coluber/train.h"

namespace coluber::apps {

struct TrainFlags : CommonOptions {
  std::vector<std::string> data, heldout;
  std::string text_field = "text";
  std::string separator = "none";
  std::string tokenizer = "bytes";
  double heldout_share = 0.05;
  std::string out;
  std::string resume;  // checkpoint or OUT; "" with --resume alone
  bool resuming = false;
  bool overwrite = false;
  std::string name;

  std::string preset;
  std::int64_t d_model = 0, n_layer = 0, d_state = 0, d_conv = 0, dt_rank = 0;  // 0: of the preset, or the default
  double expand = 0;
  bool untied = false;
  std::string norm = "rms";

  std::int64_t batch = 8, seqlen = 512, grad_accum = 1;
  double lr = 2e-3, lr_min_share = 0.1, weight_decay = 0.1, clip = 1, dropout = 0;
  std::string schedule = "cosine", dtype = "f32", recompute = "none", cuda_graph = "auto";
  std::int64_t warmup = -1;

  std::int64_t max_steps = 0;
  double max_seconds = 0;
  std::int64_t eval_every = -1, eval_batches = 8, sample_every = -1, save_every = -1, keep = 3;
  std::vector<std::string> sample_prompts;
  std::int64_t sample_tokens = 60;
};

class FlagBindings {
 public:
  explicit FlagBindings(CLI::App& command) : command_(&command) {}

  // `fixed`: what the order of the data or the shape of the model hangs on; a resumed training cannot change it.
  template <class T>
  CLI::Option* add(const std::string& flag, T& value, const std::string& description, bool fixed = false) {
    CLI::Option* option = command_->add_option("--" + flag, value, description);
    // Of a flag that is given twice the last one counts, so that scripts have defaults and their users the last word.
    if constexpr (!std::is_same_v<T, std::vector<std::string>>) option->take_last();
    bind(flag, option, value, fixed);
    return option;
  }
  template <class T>
  void bind(const std::string& flag, CLI::Option* option, T& value, bool fixed) {
    bindings_.push_back(
        {flag, option, fixed, [&value] { return Json(value); }, [&value](const Json& json) { value = json.get<T>(); }});
  }

  bool was_given(const std::string& option) const { return command_->get_option(option)->count() > 0; }
  Json to_json() const;
  // Takes what was not given on the command line. Throws kInvalidArgument when a fixed flag was given another value,
  // naming both.
  void restore(const Json& stored) const;

 private:
  struct Binding {
    std::string flag;
    CLI::Option* option;
    bool fixed;
    std::function<Json()> get;
    std::function<void(const Json&)> set;
  };
  CLI::App* command_;
  std::vector<Binding> bindings_;
};

// Declares every flag; the bindings point into `flags`.
FlagBindings add_train_flags(CLI::App& command, TrainFlags& flags);

// The shape that the flags ask for, for a vocabulary of that size.
ModelConfig train_config(const TrainFlags& flags, std::int64_t vocab_size);

}  // namespace coluber::apps
