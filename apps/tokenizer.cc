// `coluber tokenizer`: what a vocabulary makes of a text, and back. Learning one and making files of tokens are in
// tokenizer_train.cc.
#include "coluber/tokenizer.h"

#include <charconv>
#include <cstdio>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/terminal.h"
#include "apps/tokenizer_commands.h"
#include "core/check.h"
#include "core/hash.h"
#include "text/token_store.h"

namespace coluber::apps {
namespace {

struct EncodeFlags : CommonOptions {
  std::string tokenizer;
  std::vector<std::string> texts;
  std::string file = "-";
  bool no_special = false, bos = false, eos = false, pieces = false;
};

struct DecodeFlags : CommonOptions {
  std::string tokenizer;
  std::vector<std::string> ids;
  bool skip_special = false;
};

struct InfoFlags : CommonOptions {
  std::string path;
  bool vocab = false;
};

// A person who typed no text may wonder why nothing happens.
std::string read_text(const std::string& path, bool quiet) {
  if (path == "-" && !quiet && stdin_is_terminal()) std::fputs("reading standard input, Ctrl-D ends it\n", stderr);
  return read_input(path);
}

void print_ids(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, const EncodeFlags& flags) {
  if (flags.json) {
    Json object = {{"ids", ids}};
    for (const std::int32_t id : ids) {
      if (flags.pieces) object["pieces"].push_back(tokenizer.token_piece(id));
    }
    print_json(object);
    return;
  }
  std::string lines;
  for (const std::int32_t id : ids) {
    lines += std::to_string(id);
    if (flags.pieces) lines += "\t" + tokenizer.token_piece(id);
    lines += '\n';
  }
  print_text(lines);
}

int run_encode(const EncodeFlags& flags) {
  const auto tokenizer = Tokenizer::load(flags.tokenizer);
  EncodeOptions options;
  options.parse_special = !flags.no_special;
  options.add_bos = flags.bos;
  options.add_eos = flags.eos;
  if (flags.texts.empty()) {
    print_ids(*tokenizer, tokenizer->encode(read_text(flags.file, flags.quiet), options), flags);
  }
  for (const std::string& text : flags.texts) print_ids(*tokenizer, tokenizer->encode(text, options), flags);
  return kExitOk;
}

// Whole numbers between white space, commas and brackets: a line each, or a JSON list.
void parse_ids(std::string_view text, std::vector<std::int32_t>& ids) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(kBetween), text.size()));
    if (text.empty()) return;
    const std::string_view word = text.substr(0, text.find_first_of(kBetween));
    text.remove_prefix(word.size());
    std::int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size()) {
      refuse_value(ErrorCode::kInvalidArgument, "decode", join("id ", ids.size() + 1), "a whole number",
                   word.substr(0, 40));
    }
    ids.push_back(id);
  }
}

int run_decode(const DecodeFlags& flags) {
  const auto tokenizer = Tokenizer::load(flags.tokenizer);
  std::vector<std::int32_t> ids;
  for (const std::string& word : flags.ids) parse_ids(word, ids);
  if (flags.ids.empty()) parse_ids(read_text("-", flags.quiet), ids);
  DecodeOptions options;
  options.skip_special = flags.skip_special;
  if (flags.json) {
    print_json({{"text", tokenizer->decode(ids, options)}});
  } else {
    print_text(tokenizer->decode_bytes(ids, options));
    if (stdout_is_terminal()) print_line("");
  }
  return kExitOk;
}

Json id_or_null(std::int64_t id) {
  return id < 0 ? Json(nullptr) : Json(id);
}

Json tokenizer_facts(const Tokenizer& tokenizer, const std::string& path) {
  Json special = Json::array();
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(id)) special.push_back({{"id", id}, {"piece", tokenizer.token_piece(id)}});
  }
  return {{"path", path},
          {"kind", tokenizer_kind_name(tokenizer.kind())},
          {"vocab_size", tokenizer.vocab_size()},
          {"lossless", tokenizer.lossless()},
          {"bos_id", id_or_null(tokenizer.bos_id())},
          {"eos_id", id_or_null(tokenizer.eos_id())},
          {"fingerprint", hexadecimal(tokenizer.fingerprint())},
          {"special", special}};
}

Json store_facts(const TokenStore& store) {
  const TokenStoreInfo& info = store.info();
  return {{"path", store.name()},
          {"kind", "tokens"},
          {"num_tokens", info.num_tokens},
          {"num_documents", info.num_documents},
          {"text_bytes", info.text_bytes},
          {"vocab_size", info.vocab_size},
          {"eos_id", id_or_null(info.eos_id)},
          {"tokenizer_fingerprint", hexadecimal(info.tokenizer_fingerprint)}};
}

// One fact a line; of a long list of special tokens its length.
void print_facts(const Json& facts) {
  for (const auto& [name, value] : facts.items()) {
    std::string line = name + "  ";
    line.resize(std::max<std::size_t>(line.size(), 23), ' ');
    if (value.is_array() && value.size() > 8) {
      line += join(value.size(), " (--json lists them)");
    } else if (value.is_array()) {
      for (const Json& token : value) line += join(token["piece"].get<std::string>(), " = ", token["id"].dump(), "  ");
    } else {
      line += value.is_null() ? "none" : value.is_string() ? value.get<std::string>() : value.dump();
    }
    line.resize(line.find_last_not_of(' ') + 1);
    print_line(line);
  }
}

int run_info(const InfoFlags& flags) {
  if (TokenStore::is_token_file(flags.path)) {
    const Json facts = store_facts(*TokenStore::open(flags.path));
    flags.json ? print_json(facts) : print_facts(facts);
    return kExitOk;
  }
  const auto tokenizer = Tokenizer::load(flags.path);
  if (flags.vocab) {
    for (std::int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      if (flags.json) {
        print_json({{"id", id}, {"piece", tokenizer->token_piece(id)}, {"special", tokenizer->is_special(id)}});
      } else {
        print_line(join(id, "\t", tokenizer->token_piece(id)));
      }
    }
    return kExitOk;
  }
  const Json facts = tokenizer_facts(*tokenizer, flags.path);
  flags.json ? print_json(facts) : print_facts(facts);
  return kExitOk;
}

void register_encode(CLI::App& parent, Exit& exit) {
  const auto flags = std::make_shared<EncodeFlags>();
  CLI::App& command =
      add_command(parent, "encode", "Text to token ids, one a line; with --json one list a text",
                  {{"coluber tokenizer encode -t model \"In the beginning\"", "a text on the command line"},
                   {"coluber tokenizer encode -t model --pieces <book.txt", "each id with what it stands for"},
                   {"coluber tokenizer encode -t tokenizer.json --file book.txt --json", "for a script"}});
  add_tokenizer_option(command, flags->tokenizer);
  CLI::Option* texts = command.add_option("text", flags->texts, "Texts, each by itself; without one: --file");
  command.add_option("-f,--file", flags->file, "File with the text, - for standard input")
      ->excludes(texts)
      ->capture_default_str();
  command.add_flag("--pieces", flags->pieces, "The tokens as the vocabulary spells them, beside their ids");
  command.add_flag("--no-special", flags->no_special, "Special tokens spelled in the text stay text");
  command.add_flag("--bos", flags->bos, "Begin-of-text in front");
  command.add_flag("--eos", flags->eos, "End-of-text behind");
  add_output_options(command, *flags);
  on_run(command, exit, flags, run_encode);
}

void register_decode(CLI::App& parent, Exit& exit) {
  const auto flags = std::make_shared<DecodeFlags>();
  CLI::App& command = add_command(
      parent, "decode", "Token ids to text, byte by byte; with --json as one string",
      {{"coluber tokenizer decode -t model 12092 1533", "ids on the command line"},
       {"coluber tokenizer encode -t model -f a.txt | coluber tokenizer decode -t model", "there and back"},
       {"echo '[12092, 1533]' | coluber tokenizer decode -t model --json", "lists and lines are the same"}});
  add_tokenizer_option(command, flags->tokenizer);
  command.add_option("ids", flags->ids, "Token ids; without any: from standard input");
  command.add_flag("--skip-special", flags->skip_special, "Special tokens become nothing");
  add_output_options(command, *flags);
  on_run(command, exit, flags, run_decode);
}

void register_vocabulary_info(CLI::App& parent, Exit& exit) {
  const auto flags = std::make_shared<InfoFlags>();
  CLI::App& command =
      add_command(parent, "info", "Size, kind and special tokens of a vocabulary, or of a file of tokens",
                  {{"coluber tokenizer info model", "a folder, a file, or 'bytes'"},
                   {"coluber tokenizer info model --vocab", "every token, one a line"},
                   {"coluber tokenizer info tokens.bin --json", "what 'tokenizer pack' made"}});
  command
      .add_option("path", flags->path, "tokenizer.json, a SentencePiece model, a folder with either, 'bytes', tokens")
      ->required();
  command.add_flag("--vocab", flags->vocab, "List the tokens");
  add_output_options(command, *flags);
  on_run(command, exit, flags, run_info);
}

}  // namespace

void add_tokenizer_option(CLI::App& command, std::string& tokenizer) {
  command
      .add_option("-t,--tokenizer", tokenizer,
                  "tokenizer.json, a SentencePiece model, a folder with either, or 'bytes'")
      ->required();
}

void register_tokenizer(CLI::App& root, Exit& exit) {
  CLI::App& command =
      add_command(root, "tokenizer", "Learn a vocabulary; text to token ids and back",
                  {{"coluber tokenizer train book.txt --vocab-size 2048 --out tokenizer.json", "learn one"},
                   {"coluber tokenizer encode -t tokenizer.json \"In the beginning\"", "see what it does"}});
  command.require_subcommand(1);
  register_tokenizer_train(command, exit);
  register_encode(command, exit);
  register_decode(command, exit);
  register_tokenizer_pack(command, exit);
  register_vocabulary_info(command, exit);
}

}  // namespace coluber::apps
