// `coluber eval`: how well a model predicts a text of any length, in constant memory.
//
// What is counted. The text becomes tokens as in training (text/tokenize.h) and is read from front to end, the state
// carried along and reset where a document begins. `loss` is the mean over all tokens that the model predicts, the
// end-of-text tokens included; `perplexity` is its exponential. `bits_per_byte` is the size of a lossless code for the
// whole text, divided by the bytes of the text as it is in the file (in JSON lines, of the texts without their
// escapes): the nats of every prediction, end-of-text tokens included, and ln(vocabulary) nats, as of a uniform guess,
// for each token of text that opens a document with nothing before it to predict it from. So no byte goes free, and two
// tokenizers can be compared. The same text as a file of tokens costs the same, when the tokenizer that made it is
// there to say which token begins a text.
#include <cmath>
#include <numbers>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/model_files.h"
#include "apps/terminal.h"
#include "core/check.h"
#include "text/packed_dataset.h"
#include "text/tokenize.h"

namespace coluber::apps {
namespace {

struct Options : ModelOptions {
  std::vector<std::string> data;
  std::string text_field = "text";
  std::string separator = "none";
  std::int64_t chunk = 2048;
};

struct Evaluation {
  LossSum loss;
  std::int64_t num_unpredicted = 0;  // tokens of text without a prediction
  std::int64_t num_bytes = 0;        // of text; 0: unknown
  double seconds = 0;                // of the model alone
};

// A file of tokens as it is. `tokenizer` becomes the one that made it; null where there is none.
std::shared_ptr<const TokenStore> open_token_file(const Options& options, const Model& model,
                                                  std::shared_ptr<const Tokenizer>& tokenizer) {
  const std::string& path = options.data[0];
  auto store = TokenStore::open(path);
  const TokenStoreInfo& info = store->info();
  const std::int64_t rows = model.config().padded_vocab_size();
  if (info.vocab_size > rows) {
    refuse_value(ErrorCode::kInvalidArgument, "eval", path, join("ids below ", rows, ", the rows of the model"),
                 join("a vocabulary of ", info.vocab_size));
  }
  tokenizer = find_tokenizer(options, model);
  if (tokenizer && info.tokenizer_fingerprint != 0 && info.tokenizer_fingerprint != tokenizer->fingerprint()) {
    refuse_value(ErrorCode::kInvalidArgument, "eval", path,
                 join("tokens of the model's tokenizer with ", tokenizer->vocab_size(), " pieces"),
                 join("those of another one with ", info.vocab_size), "pack the text with the model's own");
  }
  return store;
}

// Text made into tokens, or tokens that are there; both mapped.
std::shared_ptr<const TokenStore> open_tokens(const Options& options, const Model& model,
                                              std::shared_ptr<const Tokenizer>& tokenizer) {
  if (options.data.size() == 1 && TokenStore::is_token_file(options.data[0])) {
    return open_token_file(options, model, tokenizer);
  }
  tokenizer = load_tokenizer(options, model);
  CorpusOptions corpus_options;
  corpus_options.separator = document_separator_from_name(options.separator);
  corpus_options.text_field = options.text_field;
  const Corpus corpus = Corpus::open(options.data, corpus_options);
  Progress progress("tokens", "B", corpus.size_bytes(), options.quiet);
  return tokenize_to_temporary(*tokenizer, corpus, [&](const TokenizeProgress& p) { progress.update(p.done_bytes); });
}

// Tokens that open a document and are text: nothing predicts them, and they are not the free begin or end of text.
std::int64_t count_unpredicted(const PackedBatch& batch, bool first_chunk, std::int64_t bos_id, std::int64_t eos_id) {
  const auto* ids = batch.ids.data<std::int32_t>();
  const auto* resets = batch.resets.data<std::uint8_t>();
  std::int64_t count = 0;
  for (std::int64_t t = 0; t < batch.ids.numel(); ++t) {
    const bool opens = resets[t] != 0 || (first_chunk && t == 0);
    if (opens && ids[t] != bos_id && ids[t] != eos_id) ++count;
  }
  return count;
}

Evaluation evaluate(Context& ctx, const Options& options, const Model& model, const TokenStream& stream,
                    std::int64_t bos_id) {
  const PackedDataset data(stream);
  const TokenStoreInfo& info = stream.store().info();
  State state = model.make_state(1);
  Evaluation evaluation;
  evaluation.num_bytes = info.text_bytes;
  Progress progress("eval", "tok", data.num_tokens(), options.quiet);
  std::int64_t read = 0;
  for (std::int64_t i = 0; i < data.num_chunks(options.chunk); ++i) {
    const PackedBatch batch = data.chunk(i, options.chunk);
    ForwardOptions forward;
    forward.state = &state;
    forward.sequences.resets = batch.resets;
    const LossSum sum = model.evaluate(ctx, batch.ids, batch.targets, forward);
    if (!std::isfinite(sum.nats)) {
      refuse_value(ErrorCode::kNumeric, "eval", join("loss of tokens ", read, " to ", read + batch.ids.numel() - 1),
                   "a finite number", std::isnan(sum.nats) ? "NaN" : "inf",
                   "the model diverged or its file is damaged");
    }
    evaluation.loss.nats += sum.nats;
    evaluation.loss.num_tokens += sum.num_tokens;
    evaluation.num_unpredicted += count_unpredicted(batch, i == 0, bos_id, info.eos_id);
    read += batch.ids.numel();
    progress.update(read, join("loss ", evaluation.loss.mean()));
  }
  evaluation.seconds = progress.seconds();
  if (evaluation.loss.num_tokens == 0) {
    refuse_value(ErrorCode::kInvalidArgument, "eval", "text",
                 "a document of 2 tokens or more, so that one predicts another", join(data.num_tokens(), " in all"));
  }
  return evaluation;
}

// `lossless` is null where no tokenizer says it.
void print(const Options& options, const Evaluation& evaluation, double bits, const Json& lossless) {
  const double loss = evaluation.loss.mean(), bytes = static_cast<double>(evaluation.num_bytes);
  const Json bits_per_byte = evaluation.num_bytes > 0 ? Json(bits / bytes) : Json(nullptr);
  if (options.json) {
    print_json({{"loss", loss},
                {"perplexity", std::exp(loss)},
                {"bits_per_byte", bits_per_byte},
                {"tokens", evaluation.loss.num_tokens},
                {"unpredicted_tokens", evaluation.num_unpredicted},
                {"bytes", evaluation.num_bytes},
                {"lossless", lossless},
                {"seconds", evaluation.seconds}});
    return;
  }
  print_line(join("loss           ", loss, " nats a token"));
  print_line(join("perplexity     ", std::exp(loss)));
  print_line(evaluation.num_bytes > 0
                 ? join("bits per byte  ", bits / bytes)
                 : std::string("bits per byte  unknown: the file of tokens does not say how much text it was"));
  print_line(join("tokens         ", evaluation.loss.num_tokens, " of ", counted(evaluation.num_bytes, "byte"), ", ",
                  human_count(static_cast<double>(evaluation.loss.num_tokens) / evaluation.seconds), " a second"));
  if (lossless == false) {
    print_line("note           this tokenizer changes the text (normalisation), so bits per byte is not a code's size");
  }
}

int run(const Options& options) {
  Context ctx(options.context());
  const Model model = load_model(options, ctx);
  if (model.config().bidirectional) {
    refuse(ErrorCode::kUnsupported, "eval",
           "a bidirectional model sees what it should predict, so it has no loss here");
  }
  std::shared_ptr<const Tokenizer> tokenizer;
  const auto store = open_tokens(options, model, tokenizer);
  const Evaluation evaluation = evaluate(ctx, options, model, TokenStream(store), tokenizer ? tokenizer->bos_id() : -1);
  const double guess = std::log(static_cast<double>(store->info().vocab_size));
  const double nats = evaluation.loss.nats + guess * static_cast<double>(evaluation.num_unpredicted);
  print(options, evaluation, nats / std::numbers::ln2, tokenizer ? Json(tokenizer->lossless()) : Json(nullptr));
  return kExitOk;
}

}  // namespace

void register_eval(CLI::App& root, Exit& exit) {
  const auto options = std::make_shared<Options>();
  CLI::App& command =
      add_command(root, "eval", "Loss, perplexity and bits per byte of a text, of any length",
                  {{"coluber eval --model DIR --data book.txt", "a text file is one document"},
                   {"coluber eval --model DIR --data a.jsonl --data b.jsonl --json", "a document a line, for a script"},
                   {"coluber eval --model DIR --data tokens.bin --dtype bf16", "tokens that are there already"}});
  command.add_option("-d,--data", options->data, "Text, JSON lines (*.jsonl) or one file of tokens; several times")
      ->required()
      ->allow_extra_args(false);
  command.add_option("--text-field", options->text_field, "Key of the text in a JSON line")->capture_default_str();
  command.add_option("--separator", options->separator, "Between documents of a text: none, blank-line, end-of-text")
      ->capture_default_str();
  add_integer_option(command, "--chunk", options->chunk, "Tokens read at once; memory, not results, depends on it", 1,
                     1 << 20);
  add_model_options(command, *options);
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
