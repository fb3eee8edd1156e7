// Corpus: documents in files, mapped, of any size.
//
// Plain text: one document per file, or several apart by blank lines or by <|endoftext|> on its own. JSON lines
// (*.jsonl, *.ndjson): a document a line, under one key. The order is that of the files; nothing is read before
// for_each_document, and then never more than is looked at. Files that changed since they were opened are not noticed.
//
//   Corpus all = Corpus::open({"book.txt"});
//   auto [train, heldout] = all.split(0.05);       // by bytes of the source, before anything is learned from it
//   auto tokens = tokenize_cached(*tokenizer, train, "model", progress);   // text/tokenize.h
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coluber {

class MappedFile;

enum class CorpusFormat : std::uint8_t { kAuto, kText, kJsonLines };  // kAuto: by the file's name
enum class DocumentSeparator : std::uint8_t { kNone, kBlankLine, kEndOfText };
std::string_view document_separator_name(DocumentSeparator separator);  // "none", "blank-line", "end-of-text"
DocumentSeparator document_separator_from_name(std::string_view name);

struct CorpusOptions {
  CorpusFormat format = CorpusFormat::kAuto;
  DocumentSeparator separator = DocumentSeparator::kNone;  // of plain text
  std::string text_field = "text";                         // of a JSON line
};

class Corpus {
 public:
  // Throws kNotFound, kIo, and kInvalidArgument when there is not one byte of text in all files together.
  static Corpus open(const std::vector<std::string>& paths, const CorpusOptions& options = {});

  std::int64_t size_bytes() const;  // of the source: JSON lines count with their braces

  // (the first part, the last `heldout_share` of the bytes). The cut is moved to the next border of documents, where
  // there is none to the next line, where there is none to the next character (of JSON lines: back to the last one).
  // Throws kInvalidArgument when a part would be empty, naming the sizes.
  std::pair<Corpus, Corpus> split(double heldout_share) const;

  // `visit(text, consumed)`: documents that are not empty, in order; `consumed` bytes of the source are behind it. The
  // text is only valid during the call. Throws kCorruptFile naming file and line of JSON that does not fit.
  using Visit = std::function<void(std::string_view text, std::int64_t consumed_bytes)>;
  void for_each_document(const Visit& visit) const;
  using VisitWhile = std::function<bool(std::string_view text, std::int64_t consumed_bytes)>;
  void for_documents_while(const VisitWhile& visit) const;  // the same until it returns false

  // Inside of a visit: this part of its text is not looked at again, and leaves the process's memory when it is mapped.
  void forget(std::string_view text) const;

  // Of paths, sizes, times of change, ranges and options: what a cache is keyed by.
  std::uint64_t fingerprint() const;

 private:
  struct Part {
    std::string path;
    std::shared_ptr<MappedFile> file;
    bool json_lines = false;
    std::int64_t begin = 0, end = 0;  // bytes
    std::int64_t changed_ns = 0;      // time of change

    std::string_view text() const;
  };
  std::int64_t border_after(const Part& part, std::int64_t at) const;
  static std::int64_t border_inside(const Part& part, std::int64_t at);
  bool visit_json_lines(const Part& part, std::int64_t before, const VisitWhile& visit) const;
  bool visit_text(const Part& part, std::int64_t before, const VisitWhile& visit) const;

  CorpusOptions options_;
  std::vector<Part> parts_;
};

}  // namespace coluber
