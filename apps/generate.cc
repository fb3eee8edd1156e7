// `coluber generate`: goes on with prompts, one token after another.
#include "coluber/generate.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/model_files.h"
#include "apps/terminal.h"
#include "core/check.h"
#include "core/utf8.h"

namespace coluber::apps {
namespace {

struct Options : ModelOptions {
  std::vector<std::string> prompts;
  std::string prompt_file, prompts_file;
  std::int64_t max_tokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stop;
  std::int64_t batch = kMaxGenerateBatch;
  bool ignore_eos = false;
  bool bos = false, no_bos = false;
  bool no_special = false;
  std::string state_in, state_out;
};

// `echo` ends what it prints with a line break that nobody means.
std::string without_last_break(std::string text) {
  if (!text.empty() && text.back() == '\n') text.pop_back();
  if (!text.empty() && text.back() == '\r') text.pop_back();
  return text;
}

// One prompt a line: the line itself or, in a file whose name ends in .jsonl, its "prompt".
std::vector<std::string> prompts_of_file(const std::string& path) {
  const bool json_lines = std::filesystem::path(path).extension() == ".jsonl";
  const std::string text = read_input(path);
  std::vector<std::string> prompts;
  for (std::size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = without_last_break(text.substr(begin, end - begin));
    begin = end + 1;
    if (line.empty()) continue;
    if (!json_lines) {
      prompts.push_back(line);
      continue;
    }
    const Json object = Json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("prompt") || !object["prompt"].is_string()) {
      refuse_value(ErrorCode::kCorruptFile, "generate", join(path, ", line ", number),
                   "an object with a text \"prompt\"", object.is_discarded() ? "no JSON" : "other JSON");
    }
    prompts.push_back(object["prompt"].get<std::string>());
  }
  if (prompts.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, "generate", path, "a prompt in each line", "no line with text");
  }
  return prompts;
}

std::vector<std::string> all_prompts(const Options& options) {
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompt_file.empty()) prompts.push_back(without_last_break(read_input(options.prompt_file)));
  if (!options.prompts_file.empty()) {
    const std::vector<std::string> more = prompts_of_file(options.prompts_file);
    prompts.insert(prompts.end(), more.begin(), more.end());
  }
  if (prompts.empty() && options.state_in.empty()) {
    if (stdin_is_terminal() && !options.quiet) std::fputs("Type a prompt; Ctrl-D ends it.\n", stderr);
    prompts.push_back(without_last_break(read_input("-")));
  }
  if (prompts.empty()) prompts.emplace_back();  // the saved state alone
  return prompts;
}

std::vector<std::int32_t> encode(const Options& options, const Tokenizer& tokenizer, const std::string& prompt) {
  EncodeOptions encode;
  encode.parse_special = !options.no_special;
  // Where one id opens and ends texts, models read prompts without it as well; a <s> of its own they expect.
  const bool own_bos = tokenizer.bos_id() >= 0 && tokenizer.bos_id() != tokenizer.eos_id();
  encode.add_bos = options.bos || (own_bos && !options.no_bos && options.state_in.empty());
  if (!tokenizer.lossless() && !is_valid_utf8(prompt)) {
    refuse_value(ErrorCode::kInvalidArgument, "generate", "prompt", "UTF-8", "bytes that form no character",
                 "this tokenizer knows characters only");
  }
  return tokenizer.encode(prompt, encode);
}

// What a user sees: one prompt as it is written, several in their order, each when it is finished.
class Output {
 public:
  Output(const Options& options, const std::vector<std::string>& prompts) : options_(options), prompts_(prompts) {
    texts_.resize(prompts.size());
    done_.resize(prompts.size(), false);
  }

  void show(const GeneratedPiece& piece) {
    if (options_.json) return;
    if (prompts_.size() == 1) {
      print_text(shown(piece.text));
      if (piece.last) print_line("");
      if (piece.last || !piece.text.empty()) std::fflush(stdout);
      if (std::ferror(stdout) != 0) {  // a full disk: nobody reads what would follow
        refuse(ErrorCode::kIo, "generate", join("cannot write to standard output: ", std::strerror(errno)));
      }
      return;
    }
    texts_[piece.prompt] += piece.text;
    done_[piece.prompt] = piece.last;
    for (; next_ < prompts_.size() && done_[next_]; ++next_) {
      if (next_ > 0) print_line("");
      print_line(paint(Colour::kBold, shown(prompts_[next_])) + shown(texts_[next_]));
      std::fflush(stdout);
    }
  }

 private:
  // To the byte into files and pipes.
  static std::string shown(std::string_view text) {
    return stdout_is_terminal() ? without_controls(text) : std::string(text);
  }

  const Options& options_;
  const std::vector<std::string>& prompts_;
  std::vector<std::string> texts_;
  std::vector<bool> done_;
  std::size_t next_ = 0;  // the first prompt that was not printed
};

void check(const Options& options) {
  options.sampling.check();
  for (const std::string& stop : options.stop) {
    if (stop.empty()) {
      refuse_value(ErrorCode::kInvalidArgument, "generate", "--stop", "some text", "an empty one");
    }
  }
  if (!options.state_out.empty()) check_writable("--state-out", options.state_out);
}

GenerateOptions library_options(const Options& options) {
  GenerateOptions generate;
  generate.sampling = options.sampling;
  generate.sampling.seed = options.seed;
  generate.max_new_tokens = options.max_tokens;
  generate.stop = options.stop;
  generate.stop_on_eos = !options.ignore_eos;
  generate.batch_size = options.batch;
  generate.keep_sessions = !options.state_out.empty();
  return generate;
}

void print_results(const std::vector<std::string>& prompts, const std::vector<Generation>& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    print_json({{"prompt", prompts[i]},
                {"text", results[i].text},
                {"finish", finish_reason_name(results[i].finish)},
                {"prompt_tokens", results[i].prompt_ids.size()},
                {"tokens", results[i].ids.size()},
                {"ids", results[i].ids}});
  }
}

void print_rate(const std::vector<Generation>& results, double seconds) {
  std::size_t read = 0, drawn = 0;
  for (const Generation& result : results) {
    read += result.prompt_ids.size();
    drawn += result.ids.size();
  }
  const std::string line = join(counted(static_cast<std::int64_t>(read), "token"), " read, ", drawn, " written in ",
                                human_duration(seconds));
  std::fprintf(stderr, "%s\n", paint(Colour::kDim, line, true).c_str());
}

int run(const Options& options) {
  check(options);
  const std::vector<std::string> prompts = all_prompts(options);
  if (!options.state_out.empty() && prompts.size() != 1) {
    refuse_value(ErrorCode::kInvalidArgument, "generate", "--state-out", "one prompt", join(prompts.size()));
  }
  Context ctx(options.context());
  const Model model = load_model(options, ctx);
  const auto tokenizer = load_tokenizer(options, model);
  GenerateOptions generate = library_options(options);
  std::optional<Session> start;
  if (!options.state_in.empty()) {
    start.emplace(Session::load(options.state_in, model, generate.sampling, tokenizer->vocab_size()));
    generate.start = &*start;
  }
  std::vector<std::vector<std::int32_t>> ids;
  std::int64_t total = 0;
  for (const std::string& prompt : prompts) {
    ids.push_back(encode(options, *tokenizer, prompt));
    total += static_cast<std::int64_t>(ids.back().size());
  }
  Output output(options, prompts);
  Progress progress("read", "tok", total, options.quiet);
  std::int64_t read_before = 0;
  generate.on_prefill = [&](std::size_t, std::int64_t read, std::int64_t all) {
    progress.update(read_before + read);
    if (read == all) read_before += all;
  };
  std::vector<Generation> results =
      coluber::generate(ctx, model, *tokenizer, ids, generate, [&](const GeneratedPiece& piece) {
        progress.clear();
        output.show(piece);
      });
  if (options.json) print_results(prompts, results);
  if (!options.state_out.empty()) results[0].session->save(ctx, options.state_out);
  if (!options.quiet && stderr_is_terminal()) print_rate(results, progress.seconds());
  return kExitOk;
}

void add_prompt_options(CLI::App& command, Options& options) {
  command.add_option("-p,--prompt", options.prompts, "Text to go on with; may be given several times")
      ->allow_extra_args(false);
  command.add_option("--prompt-file", options.prompt_file, "The whole file is one prompt; - is standard input");
  command.add_option("--prompts-file", options.prompts_file, "A prompt a line; in a .jsonl file, its \"prompt\"");
  command.add_flag("--no-special", options.no_special, "Special tokens spelled in a prompt stay text");
  CLI::Option* bos = command.add_flag("--bos", options.bos, "Put the beginning-of-text token in front of prompts");
  command.add_flag("--no-bos", options.no_bos, "Do not put it there where the tokenizer has one of its own")
      ->excludes(bos);
  command.add_option("--state-in", options.state_in, "Go on from what --state-out saved, without reading it again");
  command.add_option("--state-out", options.state_out, "Save where the text stands at the end");
}

void add_sampling_options(CLI::App& command, Options& options) {
  SamplingOptions& sampling = options.sampling;
  add_integer_option(command, "-n,--max-tokens", options.max_tokens, "Most tokens to write for a prompt", 0);
  command.add_flag("--greedy", sampling.greedy, "Always the likeliest token");
  command.add_option("-t,--temperature", sampling.temperature, "Divides logits; 0 is --greedy")->capture_default_str();
  add_integer_option(command, "--top-k", sampling.top_k, "Of the k likeliest tokens; 0: of all", 0);
  command.add_option("--top-p", sampling.top_p, "Of the fewest that reach this probability together")
      ->capture_default_str();
  command.add_option("--min-p", sampling.min_p, "Of those with this share of the likeliest one's probability")
      ->capture_default_str();
  command.add_option("--repetition-penalty", sampling.repetition_penalty, "Above 1: tokens seen before get rarer")
      ->capture_default_str();
  command.add_option("--stop", options.stop, "End where this text begins; may be given several times")
      ->allow_extra_args(false);
  command.add_flag("--ignore-eos", options.ignore_eos, "Do not end at the end-of-text token");
  add_integer_option(command, "--batch", options.batch, "Prompts written at the same time", 1, kMaxGenerateBatch);
}

}  // namespace

void register_generate(CLI::App& root, Exit& exit) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = add_command(
      root, "generate", "Go on with a prompt; the text appears as it is written",
      {{"coluber generate --model DIR --prompt \"In the beginning\" --max-tokens 100", "the same text every time"},
       {"coluber generate --model DIR --prompt Once --temperature 0.8 --top-p 0.95 --seed 7", "another text a seed"},
       {"coluber generate --model DIR --stop $'\\n\\n' < prompt.txt", "one paragraph, the prompt from a file"},
       {"coluber generate --model DIR --prompts-file prompts.txt --json", "a prompt a line, an object a line"},
       {"coluber generate --model DIR --prompt-file book.txt --max-tokens 0 --state-out book.state",
        "read a long text once ..."},
       {"coluber generate --model DIR --state-in book.state --prompt \" The end\"",
        "... and go on from there at once"}});
  add_prompt_options(command, *options);
  add_sampling_options(command, *options);
  add_model_options(command, *options);
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
