// `coluber induction`: the induction-heads task of the Mamba paper (arXiv 2312.00752, section 4.1.2 and appendix E.1).
//
// A sequence of random tokens holds a trigger once, at a random place; the token after it must be remembered. The
// sequence ends in the trigger again, and the model must answer with the remembered token. It is trained on sequences
// of 256 tokens and tested on up to 2^20: whoever recalls there has learnt what to keep and what to ignore, at any
// distance. A test reads a sequence in pieces with the state carried, so its memory does not depend on the length.
#include <algorithm>
#include <cstdio>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/terminal.h"
#include "coluber/train.h"
#include "core/check.h"
#include "core/rng.h"

namespace coluber::apps {
namespace {

constexpr std::int64_t kVocabulary = 16;
constexpr std::int32_t kTrigger = 15;  // the others, 0 to 14, are content
constexpr std::int64_t kTrainLength = 256;
constexpr std::uint64_t kRepeatSeed = 0x7265706561740000;      // "repeat": where the pair comes again
constexpr std::int64_t kPieceTokens = 8192;                    // read at once in a test, over all rows
constexpr std::uint64_t kTestStream = std::uint64_t{1} << 62;  // training takes streams from 0 up

struct Options : CommonOptions {
  std::int64_t d_model = 64, n_layer = 2, d_state = 16;
  std::int64_t batch = 8;
  std::int64_t repeats = 8;  // 0: the paper's own training data
  double lr = 2e-3;
  std::int64_t warmup = 50;  // steps
  std::int64_t max_steps = 80000;
  double max_seconds = 840;
  std::int64_t check_every = 7000;  // steps; looking at all lengths takes as long as 3000 of them
  std::int64_t max_length_log2 = 20;
  std::int64_t sequences = 16;  // at the longest length
  std::string out;
};

// One sequence as a pure function of its stream: token t of any of them costs the same.
class Sequence {
 public:
  Sequence(std::uint64_t seed, std::uint64_t stream, std::int64_t length)
      : rng_(seed, stream),
        length_(length),
        place_(static_cast<std::int64_t>(rng_.below(0, static_cast<std::uint64_t>(length - 2)))) {}

  std::int32_t token(std::int64_t t) const { return t == place_ || t == length_ - 1 ? kTrigger : content(t); }
  std::int32_t answer() const { return content(place_ + 1); }

 private:
  std::int32_t content(std::int64_t t) const {  // block 0 of the generator is the place
    return static_cast<std::int32_t>(rng_.below(static_cast<std::uint64_t>(t) + 1, kTrigger));
  }
  Rng rng_;
  std::int64_t length_, place_;
};

// Training sequences repeat the pair of trigger and answer at up to `repeats` more places, and every trigger but the
// first asks. With the last token as the only question (the paper trains so, for 200,000 steps) three of four starts
// had not found the task after 5,500 to 23,500 steps; with more questions, some of them near, all do within 1,000.
void fill_row(const Options& options, std::uint64_t stream, std::int32_t* ids, std::int32_t* targets) {
  const Sequence sequence(options.seed, stream, kTrainLength);
  for (std::int64_t t = 0; t < kTrainLength; ++t) ids[t] = sequence.token(t);
  const Rng rng(options.seed ^ kRepeatSeed, stream);
  const auto repeats = static_cast<std::int64_t>(rng.below(0, static_cast<std::uint64_t>(options.repeats) + 1));
  for (std::int64_t i = 1; i <= repeats; ++i) {
    const auto t = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), kTrainLength - 3));
    const bool free = ids[t] != kTrigger && ids[t + 1] != kTrigger && (t == 0 || ids[t - 1] != kTrigger);
    if (!free) continue;
    ids[t] = kTrigger;
    ids[t + 1] = sequence.answer();
  }
  bool asked = false;
  for (std::int64_t t = 0; t < kTrainLength; ++t) {
    if (ids[t] != kTrigger) continue;
    if (asked) targets[t] = sequence.answer();
    asked = true;
  }
}

Batch training_batch(const Options& options, std::int64_t index) {
  Batch batch;
  batch.ids = Tensor::empty({options.batch, kTrainLength}, DType::kI32);
  batch.targets = Tensor::full({options.batch, kTrainLength}, -1, DType::kI32);
  for (std::int64_t row = 0; row < options.batch; ++row) {
    fill_row(options, static_cast<std::uint64_t>(index * options.batch + row),
             batch.ids.data<std::int32_t>() + row * kTrainLength,
             batch.targets.data<std::int32_t>() + row * kTrainLength);
  }
  return batch;
}

// --- test ------------------------------------------------------------------------------------------------------------
struct LengthResult {
  std::int64_t length = 0, sequences = 0, right = 0;
  double seconds = 0;
  std::int64_t memory_bytes = 0;  // most tensor memory beside the model

  double accuracy() const { return static_cast<double>(right) / static_cast<double>(sequences); }
  double ns_per_token() const { return seconds * 1e9 / static_cast<double>(length * sequences); }
};

std::int32_t best_content(const float* logits) {
  return static_cast<std::int32_t>(std::max_element(logits, logits + kVocabulary) - logits);
}

std::int64_t count_right(Context& ctx, const Model& model, const std::vector<Sequence>& rows, std::int64_t length) {
  const auto b = static_cast<std::int64_t>(rows.size());
  State state = model.make_state(b);
  ForwardOptions forward;
  forward.state = &state;
  forward.last_token_only = true;
  Tensor logits;
  const std::int64_t piece = std::max<std::int64_t>(kPieceTokens / b, 1);
  for (std::int64_t begin = 0; begin < length; begin += piece) {
    const std::int64_t l = std::min(piece, length - begin);
    const Tensor ids = Tensor::empty({b, l}, DType::kI32);
    for (std::int64_t row = 0; row < b; ++row) {
      std::int32_t* out = ids.data<std::int32_t>() + row * l;
      for (std::int64_t t = 0; t < l; ++t) out[t] = rows[static_cast<std::size_t>(row)].token(begin + t);
    }
    logits = model.forward(ctx, ids, forward);  // (b,1,v)
  }
  std::int64_t right = 0;
  for (std::int64_t row = 0; row < b; ++row) {
    right += best_content(logits.data<float>() + row * logits.size(2)) == rows[static_cast<std::size_t>(row)].answer();
  }
  return right;
}

LengthResult test_length(Context& ctx, const Model& model, std::uint64_t seed, std::int64_t length,
                         std::int64_t sequences) {
  LengthResult result;
  result.length = length;
  result.sequences = sequences;
  const std::int64_t rows = std::min<std::int64_t>(sequences, 16);
  const std::int64_t before = memory_stats().live_bytes;
  reset_memory_peak();
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t first = 0; first < sequences; first += rows) {
    std::vector<Sequence> group;
    for (std::int64_t i = first; i < std::min(first + rows, sequences); ++i) {
      group.emplace_back(seed, kTestStream + static_cast<std::uint64_t>(length * 4096 + i), length);
    }
    result.right += count_right(ctx, model, group, length);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.memory_bytes = memory_stats().peak_bytes - before;
  return result;
}

// --- training --------------------------------------------------------------------------------------------------------
struct Trained {
  std::int64_t steps = 0;
  double seconds = 0, loss = 0;
};

// Right at every length that is looked at while training, on other sequences than those of the final test.
bool recalls(Context& ctx, const Model& model, const Options& options, std::string* note) {
  for (const auto& [log2, sequences] :
       {std::pair(8, 128), std::pair(11, 64), std::pair(14, 32), std::pair(17, 16), std::pair(20, 16)}) {
    const std::int64_t tested = std::min<std::int64_t>(log2, options.max_length_log2);
    const LengthResult result = test_length(ctx, model, options.seed ^ 0x5eed, std::int64_t{1} << tested, sequences);
    *note += join(note->empty() ? "" : ", ", "2^", tested, " ", std::lround(100 * result.accuracy()), "%");
    if (result.right < result.sequences) return false;
    if (tested < log2) break;
  }
  return true;
}

Trained train(Context& ctx, const Model& model, const Options& options) {
  TrainOptions train_options;
  train_options.schedule.kind = ScheduleKind::kConstant;
  train_options.schedule.lr = options.lr;
  train_options.schedule.warmup_steps = options.warmup;
  train_options.adamw.weight_decay = 0;
  train_options.adamw.beta2 = 0.98;
  // Recall at 256 is soon so sure that gradients fall below the usual 1e-8. Relative to them alone steps keep their
  // size, and forgetting goes on shrinking: that is what carries from 256 tokens to a million.
  train_options.adamw.eps = 1e-15;
  train_options.max_steps = options.max_steps;
  train_options.max_seconds = options.max_seconds;
  Trained trained;
  bool done = false;
  Progress progress("training", "steps", options.max_steps, options.quiet || options.json);
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) {
    trained = {report.step, report.seconds, 0.98 * trained.loss + 0.02 * report.loss};
    progress.update(report.step, join("loss ", report.loss));
    if (report.step % options.check_every != 0) return;
    std::string note;
    done = recalls(ctx, model, options, &note);
    progress.clear();
    if (!options.quiet && !options.json) {
      char line[160];
      std::snprintf(line, sizeof line, "  step %6lld  %5.0f s  loss %.5f  recall %s",
                    static_cast<long long>(report.step), report.seconds, trained.loss, note.c_str());
      print_line(line);
      std::fflush(stdout);
    }
  };
  callbacks.should_stop = [&] { return done; };
  Trainer trainer(
      ctx, model, [&](std::int64_t index) { return training_batch(options, index); }, train_options, {}, callbacks);
  trainer.run();
  return trained;
}

// --- report ----------------------------------------------------------------------------------------------------------
void report(const LengthResult& result, const Options& options) {
  if (options.json) {
    print_json({{"length", result.length},
                {"sequences", result.sequences},
                {"right", result.right},
                {"accuracy", result.accuracy()},
                {"seconds", result.seconds},
                {"ns_per_token", result.ns_per_token()},
                {"memory_bytes", result.memory_bytes}});
    return;
  }
  char line[160];
  std::snprintf(line, sizeof line, "  2^%-3d %9lld   %6.1f%% %5lld/%-5lld %9.2f s %9.0f ns %10s",
                static_cast<int>(std::lround(std::log2(static_cast<double>(result.length)))),
                static_cast<long long>(result.length), 100 * result.accuracy(), static_cast<long long>(result.right),
                static_cast<long long>(result.sequences), result.seconds, result.ns_per_token(),
                human_bytes(result.memory_bytes).c_str());
  print_line(line);
  std::fflush(stdout);
}

int run(const Options& options) {
  Context ctx(options.context());
  ModelConfig config;
  config.d_model = options.d_model;
  config.n_layer = options.n_layer;
  config.vocab_size = kVocabulary;
  config.mixer.d_state = options.d_state;
  const Model model = Model::create(config, options.seed);
  if (!options.json) {
    print_line(join("Induction heads: ", counted(options.n_layer, "layer"), ", ", model.num_parameters(),
                    " parameters, trained on ", kTrainLength, " tokens a sequence"));
  }
  const Trained trained = train(ctx, model, options);
  if (!options.out.empty()) model.save(options.out);
  if (options.json) {
    print_json({{"trained_length", kTrainLength},
                {"steps", trained.steps},
                {"seconds", trained.seconds},
                {"loss", trained.loss}});
  } else {
    print_line(join("Trained for ", counted(trained.steps, "step"), ", ", human_duration(trained.seconds),
                    ". Recall by length (trained on 256):"));
    print_line(paint(Colour::kBold, "  length               right                time      a token     memory"));
  }
  bool good = true;
  for (std::int64_t log2 = 6; log2 <= options.max_length_log2; ++log2) {
    const std::int64_t length = std::int64_t{1} << log2;
    const std::int64_t sequences = std::clamp<std::int64_t>((options.sequences << 18) / length, options.sequences, 256);
    const LengthResult result = test_length(ctx, model, options.seed, length, sequences);
    report(result, options);
    good = good && result.accuracy() >= 0.99;
  }
  return good ? kExitOk : kExitFailure;
}

}  // namespace

void register_induction(CLI::App& root, Exit& exit) {
  auto options = std::make_shared<Options>();
  CLI::App& command = add_command(root, "induction", "Train exact recall on 256 tokens and test it up to a million",
                                  {{"coluber induction", "about ten minutes on two cores"},
                                   {"coluber induction --seed 2 --json", "another start, for scripts"}});
  add_common_options(command, *options);
  add_integer_option(command, "--d-model", options->d_model, "Width", 1, 65536);
  add_integer_option(command, "--n-layer", options->n_layer, "Layers", 1, 1024);
  add_integer_option(command, "--d-state", options->d_state, "States per channel", 1, 256);
  command.add_option("--batch", options->batch, "Sequences a step")
      ->capture_default_str()
      ->check(whole_number(1, 4096));
  command.add_option("--lr", options->lr, "Largest learning rate")->capture_default_str();
  add_integer_option(command, "--repeats", options->repeats,
                     "Times at most that a training sequence shows the pair again (0: the paper's own data)", 0, 64);
  add_integer_option(command, "--warmup", options->warmup, "Steps of warm-up to it", 0);
  add_integer_option(command, "--max-steps", options->max_steps, "Train for so many steps at most", 1);
  command.add_option("--max-seconds", options->max_seconds, "Train for so long at most (0: no such limit)")
      ->capture_default_str();
  add_integer_option(command, "--check-every", options->check_every, "Look at recall every so many steps", 1);
  command.add_option("--max-length-log2", options->max_length_log2, "Longest test, as a power of two")
      ->capture_default_str()
      ->check(whole_number(6, 30));
  command.add_option("--sequences", options->sequences, "Sequences of the longest test")
      ->capture_default_str()
      ->check(whole_number(1, 4096));
  command.add_option("--out", options->out, "Keep the model in this folder");
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
