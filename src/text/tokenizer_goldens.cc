#include "text/tokenizer_goldens.h"

#include <filesystem>
#include <memory>

#include "coluber/error.h"
#include "coluber/tokenizer.h"
#include "core/check.h"
#include "core/content.h"
#include "core/json.h"
#include "text/json_value.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;

using Ids = std::vector<std::int32_t>;

std::string hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return out;
}

std::string spell(const Ids& ids) {
  std::string out;
  for (const std::int32_t id : ids) out += join(out.empty() ? "" : " ", id);
  return out;
}

Ids ids_of(const JsonValue& json) {
  Ids ids;
  for (std::size_t i = 0, n = json.array_size(); i < n; ++i) {
    ids.push_back(static_cast<std::int32_t>(json.element(i).integer()));
  }
  return ids;
}

// The first difference is the detail of the result.
class Comparison {
 public:
  explicit Comparison(TokenizerGoldenResult& result) : result_(result) { result_.passed = true; }

  void text(std::string_view what, const std::string& expected, const std::string& got) {
    if (expected != got) differ(what, hex(expected), hex(got));
  }
  void ids(const Ids& expected, const Ids& got) {
    if (expected != got) differ("ids", spell(expected), spell(got));
  }

 private:
  void differ(std::string_view what, std::string_view expected, std::string_view got) {
    if (!result_.passed) return;
    result_.passed = false;
    result_.detail = join(what, ": expected ", printable(expected), ", got ", printable(got));
  }
  TokenizerGoldenResult& result_;
};

// A tokenizer, or why there is none.
struct Found {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string unsupported;
};

Found find_tokenizer(const std::string& name, const std::vector<std::string>& folders) {
  std::error_code ignored;
  for (const std::string& folder : folders) {
    const std::string path = (fs::path(folder) / name).string();
    if (!fs::exists(path, ignored)) continue;
    try {
      return {Tokenizer::load(path), ""};
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      return {nullptr, error.what()};
    }
  }
  return {nullptr, join("the tokenizer ", name, " is in none of the folders")};
}

class GoldenFile {
 public:
  GoldenFile(const std::string& path, const Json& root, const std::vector<std::string>& folders)
      : root_(path, root),
        cases_(root_.member("cases")),
        file_(fs::path(path).filename().string()),
        name_(root_.member("tokenizer").string()),
        main_(find_tokenizer(name_, folders)) {
    if (!name_.ends_with(".model")) return;
    json_name_ = (fs::path(name_).parent_path() / "tokenizer.json").string();
    json_ = find_tokenizer(json_name_, folders);
  }

  std::vector<TokenizerGoldenResult> run() {
    for (std::size_t i = 0, n = cases_.array_size(); i < n; ++i) {
      const JsonValue one = cases_.element(i);
      if (!one.member("emit").is_null()) {
        run_one(one.member("name").string(), main_, [&](Comparison& c) { check_stream(*main_.tokenizer, one, c); });
        continue;
      }
      const std::string name = join(i, " ", one.member("category").string());
      run_one(name, main_, [&](Comparison& c) { check_text(*main_.tokenizer, one, false, c); });
      if (json_name_.empty()) continue;
      run_one(name + "/json", json_, [&](Comparison& c) { check_text(*json_.tokenizer, one, true, c); });
    }
    return std::move(results_);
  }

 private:
  template <class Check>
  void run_one(const std::string& name, const Found& found, const Check& check) {
    TokenizerGoldenResult& result = results_.emplace_back();
    result.file = file_;
    result.case_name = name;
    result.unsupported = found.unsupported;
    if (found.tokenizer == nullptr) return;
    Comparison comparison(result);
    check(comparison);
  }

  // `second`: the other form of the tokenizer, which differs where the file says so.
  void check_text(const Tokenizer& tokenizer, const JsonValue& one, bool second, Comparison& compare) const {
    const JsonValue other_ids = one.member("ids_json");
    const bool differs = second && !other_ids.is_null();
    const Ids expected = ids_of(differs ? other_ids : one.member("ids"));
    const JsonValue other_decoded = one.member("decoded_json");
    const JsonValue decoded = differs && !other_decoded.is_null() ? other_decoded : one.member("decoded");
    const Ids got = tokenizer.encode(one.member("text").string());
    compare.ids(expected, got);
    compare.text("decoded", decoded.string(), tokenizer.decode(expected));
    compare.text("decoded one by one", decoded.string(), stream(tokenizer, expected));
    const JsonValue skipped = one.member("decoded_skip_special");
    if (!skipped.is_null()) {
      compare.text("decoded without special tokens", skipped.string(), tokenizer.decode(expected, {true}));
    }
    if (!differs) check_pieces(tokenizer, one, expected, compare);
    if (tokenizer.vocab_size() != root_.member("vocab").integer()) {
      compare.text("vocabulary", join(root_.member("vocab").integer()), join(tokenizer.vocab_size()));
    }
  }

  static void check_pieces(const Tokenizer& tokenizer, const JsonValue& one, const Ids& ids, Comparison& compare) {
    const JsonValue pieces = one.member("pieces");
    if (pieces.array_size() != ids.size()) pieces.refuse_type("a piece for each id");
    for (std::size_t i = 0; i < ids.size(); ++i) {
      compare.text("piece", pieces.element(i).string(), hex(tokenizer.token_bytes(ids[i])));
    }
  }

  static std::string stream(const Tokenizer& tokenizer, const Ids& ids) {
    StreamDecoder decoder(tokenizer);
    std::string shown;
    for (const std::int32_t id : ids) shown += decoder.feed(id);
    return shown + decoder.flush();
  }

  static void check_stream(const Tokenizer& tokenizer, const JsonValue& one, Comparison& compare) {
    const Ids ids = ids_of(one.member("ids"));
    const JsonValue emit = one.member("emit");
    if (emit.array_size() != ids.size()) emit.refuse_type("a text for each id");
    StreamDecoder decoder(tokenizer);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      compare.text(join("shown after token ", i), emit.element(i).string(), decoder.feed(ids[i]));
    }
    compare.text("flush", one.member("flush").string(), decoder.flush());
    compare.text("decoded", one.member("decoded").string(), tokenizer.decode(ids));
    check_pieces(tokenizer, one, ids, compare);
  }

  JsonValue root_, cases_;
  std::string file_, name_, json_name_;
  Found main_, json_;
  std::vector<TokenizerGoldenResult> results_;
};

}  // namespace

std::vector<TokenizerGoldenResult> check_tokenizer_goldens(const std::string& path,
                                                           const std::vector<std::string>& tokenizer_folders) {
  const Json root = read_json_file("tokenizer_goldens", path);
  return GoldenFile(path, root, tokenizer_folders).run();
}

}  // namespace coluber
