#include "text/tokenize.h"

#include <filesystem>

#include "core/atomic_file.h"
#include "core/check.h"
#include "core/hash.h"
#include "core/mapped_file.h"
#include "text/long_text.h"
#include "text/token_file.h"

namespace coluber {
namespace {

constexpr const char* kOp = "tokens";
constexpr std::int64_t kReportBytes = 1 << 20;
constexpr std::size_t kForgetBytes = 1 << 20;

// Ids that stand before and behind a document, and at the very end; -1: none.
struct Frame {
  std::int64_t open = -1, close = -1, last = -1;
};

Frame frame_of(const Tokenizer& tokenizer) {
  const std::int64_t bos = tokenizer.bos_id(), eos = tokenizer.eos_id();
  if (eos >= 0 && (bos < 0 || bos == eos)) return {eos, -1, eos};
  return {bos, eos, -1};
}

class CorpusTokenizer {
 public:
  CorpusTokenizer(const Tokenizer& tokenizer, const Corpus& corpus, const TokenFileWriter::Write& write,
                  const OnTokenizeProgress& progress)
      : corpus_(corpus),
        progress_(progress),
        encoder_(tokenizer),
        frame_(frame_of(tokenizer)),
        writer_(write, {0, tokenizer.vocab_size(), tokenizer.fingerprint(), 0, tokenizer.eos_id(), 0}) {}

  TokenFileHeader run() {
    corpus_.for_each_document([this](std::string_view text, std::int64_t consumed) { add(text, consumed); });
    if (writer_.num_tokens() == 0) {
      refuse_value(ErrorCode::kInvalidArgument, kOp, "documents", "at least one that is not empty",
                   join("none in ", corpus_.size_bytes(), " bytes"));
    }
    append(frame_.last);
    report(corpus_.size_bytes(), true);
    return writer_.finish();
  }

 private:
  void add(std::string_view text, std::int64_t consumed) {
    is_open_ = false;
    append(frame_.open);
    std::size_t before = 0;
    encoder_.encode(text, [&](std::span<const std::int32_t> ids, std::size_t done) {
      append(ids);
      if (done - before >= kForgetBytes) {
        corpus_.forget(text.substr(before, done - before));
        before = done;
      }
      report(consumed - static_cast<std::int64_t>(text.size() - done), false);
    });
    append(frame_.close);
    writer_.count_text(static_cast<std::int64_t>(text.size()));
  }

  void append(std::int64_t id) {
    if (id < 0) return;
    const auto token = static_cast<std::int32_t>(id);
    append({&token, 1});
  }

  // A document begins with its first token, so that one without any is none.
  void append(std::span<const std::int32_t> ids) {
    if (ids.empty()) return;
    if (!is_open_) writer_.begin_document();
    is_open_ = true;
    writer_.append(ids);
  }

  void report(std::int64_t done, bool is_end) {
    if (!progress_ || (!is_end && done - reported_ < kReportBytes)) return;
    reported_ = done;
    progress_({done, corpus_.size_bytes(), writer_.num_tokens()});
  }

  const Corpus& corpus_;
  const OnTokenizeProgress& progress_;
  LongTextEncoder encoder_;
  Frame frame_;
  TokenFileWriter writer_;
  std::int64_t reported_ = 0;
  bool is_open_ = false;
};

// `File` has write() and rewrite().
template <class File>
void tokenize_into(File& file, const Tokenizer& tokenizer, const Corpus& corpus, const OnTokenizeProgress& progress) {
  const auto write = [&file](const void* data, std::size_t size) { file.write(data, size); };
  const TokenFileHeader header = CorpusTokenizer(tokenizer, corpus, write, progress).run();
  file.rewrite(0, &header, sizeof header);
}

}  // namespace

std::shared_ptr<const TokenStore> tokenize_to_file(const Tokenizer& tokenizer, const Corpus& corpus,
                                                   const std::string& path, const OnTokenizeProgress& progress) {
  AtomicFile file(kOp, path);
  tokenize_into(file, tokenizer, corpus, progress);
  file.commit();
  return TokenStore::open(path);
}

std::shared_ptr<const TokenStore> tokenize_cached(const Tokenizer& tokenizer, const Corpus& corpus,
                                                  const std::string& folder, const OnTokenizeProgress& progress) {
  // Begin and end of text may come from a tokenizer_config.json, of which the tokenizer's fingerprint knows nothing.
  const std::uint64_t key = fnv1a(join(corpus.fingerprint(), " ", tokenizer.fingerprint(), " ", tokenizer.bos_id(), " ",
                                       tokenizer.eos_id(), " ", kTokenFileVersion));
  const std::string path = (std::filesystem::path(folder) / ("tokens-" + hexadecimal(key) + ".bin")).string();
  if (std::filesystem::exists(path)) return TokenStore::open(path);
  ensure_directory(folder);
  return tokenize_to_file(tokenizer, corpus, path, progress);
}

std::shared_ptr<const TokenStore> tokenize_to_temporary(const Tokenizer& tokenizer, const Corpus& corpus,
                                                        const OnTokenizeProgress& progress) {
  UnnamedFile file(kOp);
  tokenize_into(file, tokenizer, corpus, progress);
  return TokenStore::of_file("tokens in a temporary file", file.map("tokens in a temporary file"));
}

}  // namespace coluber
