#include "apps/train_flags.h"

#include "core/check.h"

namespace coluber::apps {
namespace {

constexpr std::int64_t kDefaultModel = 256;  // d_model without a preset
constexpr std::int64_t kDefaultLayers = 4;

void add_data_flags(FlagBindings& bindings, TrainFlags& flags) {
  bindings.add("data", flags.data,
               "Text, JSON lines (.jsonl) or binary tokens (.bin) to learn from; several are joined", true);
  bindings.add("heldout", flags.heldout, "Data to measure on; without it, a share of --data is set apart", true);
  bindings.add("heldout-share", flags.heldout_share, "That share", true)
      ->capture_default_str()
      ->check(CLI::Range(0.0, 0.9));
  bindings.add("text-field", flags.text_field, "Field of a JSON line that holds the text", true)->capture_default_str();
  bindings.add("separator", flags.separator, "Between documents of a text: none, blank-line, end-of-text", true)
      ->capture_default_str();
  bindings
      .add("tokenizer", flags.tokenizer,
           "bytes, a tokenizer.json or SentencePiece model, or train:N for N pieces made from the data", true)
      ->capture_default_str();
}

void add_shape_flags(FlagBindings& bindings, TrainFlags& flags) {
  const auto positive = whole_number(1, 1 << 24);
  bindings.add("preset", flags.preset, "Shape by name: tiny, mamba-130m to mamba-2.8b; the next flags change it", true);
  bindings.add("d-model", flags.d_model, "Width (256)", true)->check(positive);
  bindings.add("n-layer", flags.n_layer, "Layers (4)", true)->check(positive);
  bindings.add("d-state", flags.d_state, "State per channel (16)", true)->check(positive);
  bindings.add("d-conv", flags.d_conv, "Taps of the convolution (4)", true)->check(positive);
  bindings.add("dt-rank", flags.dt_rank, "Rank of dt (width / 16)", true)->check(positive);
  bindings.add("expand", flags.expand, "Channels per width (2)", true)->check(CLI::Range(0.01, 64.0));
  bindings.add("norm", flags.norm, "rms or layer", true)->capture_default_str()->check(CLI::IsMember({"rms", "layer"}));
  bindings.add("untied", flags.untied, "true: a head of its own instead of the embedding", true)->capture_default_str();
  bindings.add("dropout", flags.dropout, "Share of every layer's output that is dropped", true)->capture_default_str();
}

void add_learning_flags(FlagBindings& bindings, TrainFlags& flags) {
  const auto positive = whole_number(1, 1 << 30);
  bindings.add("batch", flags.batch, "Sequences of a batch", true)->capture_default_str()->check(positive);
  bindings.add("seqlen", flags.seqlen, "Tokens of a sequence", true)->capture_default_str()->check(positive);
  bindings.add("grad-accum", flags.grad_accum, "Batches of a step", true)->capture_default_str()->check(positive);
  bindings.add("lr", flags.lr, "Largest learning rate")->capture_default_str();
  bindings.add("lr-min-share", flags.lr_min_share, "The last rate as a share of it")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  bindings.add("schedule", flags.schedule, "cosine, linear, constant or wsd (warm-up, stable, decay)")
      ->capture_default_str();
  bindings.add("warmup", flags.warmup, "Steps of warm-up (a twentieth of all, at most 1000)")
      ->check(whole_number(0, std::int64_t{1} << 40));
  bindings.add("weight-decay", flags.weight_decay, "Of matrices")->capture_default_str();
  bindings.add("clip", flags.clip, "Largest norm of the gradients (0: none)")->capture_default_str();
  bindings.add("dtype", flags.dtype, "Of matrix products: f32 or bf16; all else is f32")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
  bindings
      .add(
          "recompute", flags.recompute,
          "Made again in backward instead of kept: none, light (norms, convolutions, dt), scan (those and the scan) or "
          "layer (all of a layer); less memory, the same bits")
      ->capture_default_str()
      ->check(CLI::IsMember({"none", "light", "scan", "layer"}));
  bindings
      .add("cuda-graph", flags.cuda_graph,
           "On a GPU, steps as one graph where shapes repeat: auto or off; less work for the host, the same bits")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "off"}));
}

void add_progress_flags(FlagBindings& bindings, TrainFlags& flags) {
  const auto not_negative = whole_number(0, std::int64_t{1} << 40);
  bindings.add("max-steps", flags.max_steps, "Stop after so many steps")->check(not_negative);
  bindings.add("max-seconds", flags.max_seconds, "Stop in time, the schedule with it (300 when no limit is given)")
      ->check(CLI::NonNegativeNumber);
  bindings.add("eval-every", flags.eval_every, "Measure held-out loss every so many steps (ten times in all)")
      ->check(not_negative);
  bindings.add("eval-batches", flags.eval_batches, "On so many batches")->capture_default_str()->check(not_negative);
  bindings.add("sample-every", flags.sample_every, "Write a sample every so many steps (three times in all; 0: never)")
      ->check(not_negative);
  bindings.add("sample-prompt", flags.sample_prompts, "Start of a sample; may be repeated");
  bindings.add("sample-tokens", flags.sample_tokens, "Length of a sample")->capture_default_str()->check(not_negative);
  bindings
      .add("save-every", flags.save_every, "Checkpoint every so many steps (every ten minutes; 0: only at the end)")
      ->check(not_negative);
  bindings.add("keep", flags.keep, "Newest checkpoints that stay")
      ->capture_default_str()
      ->check(whole_number(1, 1 << 30));
  bindings.add("name", flags.name, "Name of the model on its card");
}

}  // namespace

FlagBindings add_train_flags(CLI::App& command, TrainFlags& flags) {
  add_common_options(command, flags);
  add_device_option(command, flags);
  FlagBindings bindings(command);
  bindings.bind("seed", command.get_option("--seed"), flags.seed, true);
  add_data_flags(bindings, flags);
  add_shape_flags(bindings, flags);
  add_learning_flags(bindings, flags);
  add_progress_flags(bindings, flags);
  command.add_option("--out", flags.out, "Folder of the model, its checkpoints, metrics and pictures");
  command.add_option("--resume", flags.resume, "Go on from a checkpoint, or from the newest one of a folder")
      ->expected(0, 1)
      ->default_str("");
  command.add_flag("--overwrite", flags.overwrite, "Remove the checkpoints of an earlier training in --out first");
  return bindings;
}

Json FlagBindings::to_json() const {
  Json json = Json::object();
  for (const Binding& binding : bindings_) json[binding.flag] = binding.get();
  return json;
}

void FlagBindings::restore(const Json& stored) const {
  for (const Binding& binding : bindings_) {
    if (!stored.contains(binding.flag)) continue;
    const Json& before = stored.at(binding.flag);
    if (binding.option->count() == 0) {
      binding.set(before);
    } else if (binding.fixed && binding.get() != before) {
      refuse_value(ErrorCode::kInvalidArgument, "train", "--" + binding.flag, before.dump() + ", as the training began",
                   binding.get().dump(), "leave it out, or start a new training");
    }
  }
}

ModelConfig train_config(const TrainFlags& flags, std::int64_t vocab_size) {
  ModelConfig config;
  config.d_model = kDefaultModel;
  config.n_layer = kDefaultLayers;
  if (!flags.preset.empty()) {
    const ModelConfig preset = model_preset(flags.preset);
    config.d_model = preset.d_model;
    config.n_layer = preset.n_layer;
  }
  if (flags.d_model > 0) config.d_model = flags.d_model;
  if (flags.n_layer > 0) config.n_layer = flags.n_layer;
  if (flags.d_state > 0) config.mixer.d_state = flags.d_state;
  if (flags.d_conv > 0) config.mixer.d_conv = flags.d_conv;
  if (flags.dt_rank > 0) config.mixer.dt_rank = flags.dt_rank;
  if (flags.expand > 0) config.mixer.expand = flags.expand;
  config.norm = flags.norm == "layer" ? NormKind::kLayer : NormKind::kRms;
  config.tie_embeddings = !flags.untied;
  config.dropout = flags.dropout;
  config.vocab_size = vocab_size;
  config.resolve();
  return config;
}

}  // namespace coluber::apps
