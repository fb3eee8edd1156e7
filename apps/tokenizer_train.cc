// `coluber tokenizer train` learns a vocabulary; `coluber tokenizer pack` makes files of tokens with one.
#include <cstdio>
#include <filesystem>

#include "apps/model_files.h"
#include "apps/terminal.h"
#include "apps/tokenizer_commands.h"
#include "core/atomic_file.h"
#include "core/check.h"
#include "core/hash.h"
#include "text/tokenize.h"
#include "text/train_tokenizer.h"

namespace coluber::apps {
namespace {

namespace fs = std::filesystem;

struct CorpusFlags : CommonOptions {
  std::vector<std::string> files;
  std::string text_field = "text";
  std::string separator = "none";
  std::string out;

  Corpus open() const {
    CorpusOptions options;
    options.text_field = text_field;
    options.separator = document_separator_from_name(separator);
    return Corpus::open(files, options);
  }
};

struct LearnFlags : CorpusFlags {
  std::string kind = "bpe";
  std::string model_type = "bpe";
  TokenizerTraining training;
};

struct PackFlags : CorpusFlags {
  std::string tokenizer;
};

void add_corpus_options(CLI::App& command, CorpusFlags& flags) {
  command.add_option("files", flags.files, "Text, or JSON lines (*.jsonl)")->required();
  command.add_option("--text-field", flags.text_field, "Key of the text in a JSON line")->capture_default_str();
  command.add_option("--separator", flags.separator, "Between documents of a text: none, blank-line, end-of-text")
      ->capture_default_str();
}

// Reading a text while its tokens take its place would lose it.
void check_not_an_input(const std::string& out, const std::vector<std::string>& files) {
  std::error_code ignored;
  for (const std::string& file : files) {
    if (!fs::equivalent(out, file, ignored)) continue;
    refuse_value(ErrorCode::kInvalidArgument, "tokenizer", "--out", "another file than the text that is read", out);
  }
}

// A folder gets a file of the name that models look for; one that a slash says is made. Known before the work begins.
std::string prepare_out(const std::string& out, const std::string& file_name) {
  std::error_code ignored;
  if (out.ends_with('/')) ensure_directory(out);
  const std::string path = fs::is_directory(out, ignored) ? (fs::path(out) / file_name).string() : out;
  check_writable("--out", path);
  return path;
}

// Bytes a token of the front of the text, at most a mebibyte.
double bytes_per_token(const Tokenizer& tokenizer, const Corpus& corpus) {
  constexpr std::size_t kSampleBytes = 1 << 20;
  std::size_t bytes = 0, tokens = 0;
  corpus.for_documents_while([&](std::string_view text, std::int64_t) {
    text = text.substr(0, kSampleBytes - bytes);
    bytes += text.size();
    tokens += tokenizer.encode(text, {.parse_special = false}).size();
    return bytes < kSampleBytes;
  });
  return tokens > 0 ? static_cast<double>(bytes) / static_cast<double>(tokens) : 0;
}

int run_train(const LearnFlags& flags) {
  const bool is_bpe = flags.kind == "bpe";
  const Corpus corpus = flags.open();
  const std::string out = prepare_out(flags.out, is_bpe ? "tokenizer.json" : "tokenizer.model");
  check_not_an_input(out, flags.files);
  Progress progress("vocabulary", "%", 100, flags.quiet);
  TokenizerTraining training = flags.training;
  training.progress = [&](double share, const std::string& doing) {
    progress.update(static_cast<std::int64_t>(100 * share), doing);
  };
  const auto tokenizer = is_bpe ? train_bpe(corpus, training) : train_sentencepiece(corpus, training, flags.model_type);
  const double seconds = progress.seconds();
  progress.clear();
  tokenizer->save(out);
  const double ratio = bytes_per_token(*tokenizer, corpus);
  if (flags.json) {
    print_json({{"out", out},
                {"kind", flags.kind},
                {"vocab_size", tokenizer->vocab_size()},
                {"text_bytes", corpus.size_bytes()},
                {"bytes_per_token", ratio},
                {"seconds", seconds}});
  } else {
    char line[120];
    std::snprintf(line, sizeof line, ": %lld tokens, %.2f bytes of text each, learned from %s in %s",
                  static_cast<long long>(tokenizer->vocab_size()), ratio, human_bytes(corpus.size_bytes()).c_str(),
                  human_duration(seconds).c_str());
    print_line("wrote " + out + line);
  }
  if (!flags.quiet && tokenizer->vocab_size() < training.vocab_size) {
    std::fprintf(stderr, "note: the text gives no more than %lld tokens; %lld were asked for\n",
                 static_cast<long long>(tokenizer->vocab_size()), static_cast<long long>(training.vocab_size));
  }
  return kExitOk;
}

int run_pack(const PackFlags& flags) {
  const auto tokenizer = Tokenizer::load(flags.tokenizer);
  const Corpus corpus = flags.open();
  check_writable("--out", flags.out);
  check_not_an_input(flags.out, flags.files);
  check_not_an_input(flags.out, {flags.tokenizer});
  Progress progress("tokens", "B", corpus.size_bytes(), flags.quiet);
  const auto store = tokenize_to_file(*tokenizer, corpus, flags.out,
                                      [&](const TokenizeProgress& done) { progress.update(done.done_bytes); });
  const double seconds = progress.seconds();
  progress.clear();
  const TokenStoreInfo& info = store->info();
  if (flags.json) {
    print_json({{"out", flags.out},
                {"num_tokens", info.num_tokens},
                {"num_documents", info.num_documents},
                {"text_bytes", info.text_bytes},
                {"vocab_size", info.vocab_size},
                {"tokenizer_fingerprint", hexadecimal(info.tokenizer_fingerprint)},
                {"seconds", seconds}});
  } else {
    print_line(join("wrote ", flags.out, ": ", counted(info.num_tokens, "token"), " of ",
                    counted(info.num_documents, "document"), ", ", human_bytes(info.text_bytes), " of text, in ",
                    human_duration(seconds)));
  }
  return kExitOk;
}

}  // namespace

void register_tokenizer_train(CLI::App& parent, Exit& exit) {
  const auto flags = std::make_shared<LearnFlags>();
  TokenizerTraining& training = flags->training;
  CLI::App& command =
      add_command(parent, "train", "Learn a vocabulary from text",
                  {{"coluber tokenizer train book.txt --vocab-size 2048 --out tokenizer.json", "byte-level BPE"},
                   {"coluber tokenizer train a.jsonl b.jsonl --vocab-size 32000 --out model/", "into a model's folder"},
                   {"coluber tokenizer train book.txt --kind sentencepiece --model-type unigram --vocab-size 4096 "
                    "--out tokenizer.model",
                    "by the SentencePiece library"}});
  add_corpus_options(command, *flags);
  add_integer_option(command, "--vocab-size", training.vocab_size, "Tokens, the bytes and end-of-text included", 257,
                     1'000'000);
  command.add_option("-o,--out", flags->out, "File to write, or a folder (name/ is made)")->required();
  command.add_option("--kind", flags->kind, "bpe (tokenizer.json, lossless) or sentencepiece (tokenizer.model)")
      ->check(CLI::IsMember({"bpe", "sentencepiece"}))
      ->capture_default_str();
  command.add_option("--model-type", flags->model_type, "Of sentencepiece: bpe or unigram")
      ->check(CLI::IsMember({"bpe", "unigram"}))
      ->capture_default_str();
  add_integer_option(command, "--min-count", training.min_count, "Of bpe: rarer pairs do not become tokens", 1);
  add_integer_option(command, "--max-bytes", training.max_bytes, "Of text that are looked at, from the front", 1);
  command.add_option("--end-of-text", training.end_of_text, "Of bpe: the name of that token")->capture_default_str();
  add_output_options(command, *flags);
  on_run(command, exit, flags, run_train);
}

void register_tokenizer_pack(CLI::App& parent, Exit& exit) {
  const auto flags = std::make_shared<PackFlags>();
  CLI::App& command = add_command(
      parent, "pack", "Make a file of tokens for 'train --data' and 'eval --data'; any size, constant memory",
      {{"coluber tokenizer pack book.txt -t model --out tokens.bin", "one document a file"},
       {"coluber tokenizer pack stories.txt -t model --separator blank-line --out tokens.bin", "one a paragraph"}});
  add_corpus_options(command, *flags);
  add_tokenizer_option(command, flags->tokenizer);
  command.add_option("-o,--out", flags->out, "File to write")->required();
  add_output_options(command, *flags);
  on_run(command, exit, flags, run_pack);
}

}  // namespace coluber::apps
