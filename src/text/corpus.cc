#include "text/corpus.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/check.h"
#include "core/hash.h"
#include "core/mapped_file.h"
#include "text/json_lines.h"

namespace coluber {
namespace {

constexpr const char* kOp = "corpus";
constexpr std::string_view kEndOfTextLine = "<|endoftext|>";
constexpr std::size_t kForgetBytes = 1 << 20;  // documents are passed by so many at a time

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

bool has_content(std::string_view text) {
  return !std::all_of(text.begin(), text.end(), is_blank);
}

// Just behind the line break of the line at `from`, or the end.
std::size_t next_line(std::string_view text, std::size_t from) {
  const std::size_t found = text.find('\n', from);
  return found == std::string_view::npos ? text.size() : found + 1;
}

bool is_separator(std::string_view line, DocumentSeparator separator) {
  while (!line.empty() && is_blank(line.back())) line.remove_suffix(1);
  return separator == DocumentSeparator::kBlankLine ? line.empty() : line == kEndOfTextLine;
}

// The next line that separates documents: where it begins, and where the one behind it does. Both the end: none.
struct Separator {
  std::size_t begin = 0, end = 0;
};

Separator find_separator(std::string_view text, std::size_t from, DocumentSeparator separator) {
  if (separator == DocumentSeparator::kNone) return {text.size(), text.size()};
  while (from < text.size()) {
    const std::size_t end = next_line(text, from);
    if (is_separator(text.substr(from, end - from), separator)) return {from, end};
    from = end;
  }
  return {text.size(), text.size()};
}

// The line break in front of a separator or of the end belongs to it, not to the document.
std::string_view without_line_break(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.ends_with('\r')) text.remove_suffix(1);
  return text;
}

bool is_json_lines(const std::string& path, CorpusFormat format) {
  if (format != CorpusFormat::kAuto) return format == CorpusFormat::kJsonLines;
  const std::string extension = std::filesystem::path(path).extension().string();
  return extension == ".jsonl" || extension == ".ndjson";
}

}  // namespace

std::string_view document_separator_name(DocumentSeparator separator) {
  switch (separator) {
    case DocumentSeparator::kNone: return "none";
    case DocumentSeparator::kBlankLine: return "blank-line";
    case DocumentSeparator::kEndOfText: return "end-of-text";
  }
  return "unknown";
}

DocumentSeparator document_separator_from_name(std::string_view name) {
  for (const DocumentSeparator separator :
       {DocumentSeparator::kNone, DocumentSeparator::kBlankLine, DocumentSeparator::kEndOfText}) {
    if (name == document_separator_name(separator)) return separator;
  }
  refuse_value(ErrorCode::kInvalidArgument, kOp, "separator of documents", "none, blank-line or end-of-text", name);
}

std::string_view Corpus::Part::text() const {
  if (begin == end) return {};
  return {reinterpret_cast<const char*>(file->bytes().data()) + begin, static_cast<std::size_t>(end - begin)};
}

Corpus Corpus::open(const std::vector<std::string>& paths, const CorpusOptions& options) {
  Corpus corpus;
  corpus.options_ = options;
  for (const std::string& path : paths) {
    Part part;
    part.path = path;
    part.json_lines = is_json_lines(path, options.format);
    struct stat info {};
    const bool found = ::stat(path.c_str(), &info) == 0;
    if (found && S_ISREG(info.st_mode) && info.st_size == 0) continue;  // an empty file is no mistake among others
    part.file = MappedFile::open(kOp, path);
    part.end = static_cast<std::int64_t>(part.file->bytes().size());
    part.changed_ns = static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
    corpus.parts_.push_back(std::move(part));
  }
  if (!corpus.parts_.empty()) return corpus;
  std::string names;
  for (const std::string& path : paths) names += (names.empty() ? "" : ", ") + path;
  refuse_value(ErrorCode::kInvalidArgument, kOp, paths.empty() ? "files" : names, "text",
               paths.empty() ? "none" : "0 bytes");
}

std::int64_t Corpus::size_bytes() const {
  std::int64_t size = 0;
  for (const Part& part : parts_) size += part.end - part.begin;
  return size;
}

// Where the first document that begins at or after `at` does, both counted from the front of the part; its size when
// there is none.
std::int64_t Corpus::border_after(const Part& part, std::int64_t at) const {
  const std::string_view text = part.text();
  if (!part.json_lines && options_.separator == DocumentSeparator::kNone) return part.end - part.begin;
  const auto least = static_cast<std::size_t>(at);
  const std::size_t before = text.substr(0, least).rfind('\n');  // a line may begin exactly at `at`
  std::size_t line = before == std::string_view::npos ? 0 : before;
  if (part.json_lines) {
    line = before == std::string_view::npos ? 0 : before + 1;
    while (line < least && line < text.size()) line = next_line(text, line);
    return static_cast<std::int64_t>(has_content(text.substr(line)) ? line : text.size());
  }
  const std::size_t previous = text.substr(0, line).rfind('\n');
  line = previous == std::string_view::npos ? 0 : previous + 1;
  while (true) {
    const Separator found = find_separator(text, line, options_.separator);
    line = found.end;
    if (line == text.size()) return static_cast<std::int64_t>(line);
    const bool is_document = find_separator(text, line, options_.separator).begin > line;
    if (line >= least && is_document) return static_cast<std::int64_t>(line);
  }
}

// Within the only document that is left: the next line; else the next character. Of JSON lines, the last line.
std::int64_t Corpus::border_inside(const Part& part, std::int64_t at) {
  const std::string_view text = part.text();
  auto place = static_cast<std::size_t>(at);
  if (part.json_lines) {
    std::size_t end = text.size();
    while (end > 0 && is_blank(text[end - 1])) --end;
    const std::size_t before = text.substr(0, end).rfind('\n');
    return before == std::string_view::npos ? 0 : static_cast<std::int64_t>(before + 1);
  }
  const std::size_t line = place > 0 && text[place - 1] == '\n' ? place : next_line(text, place);
  if (has_content(text.substr(line))) return static_cast<std::int64_t>(line);
  const auto continues = [&] { return (static_cast<unsigned char>(text[place]) & 0xC0u) == 0x80u; };
  while (place < text.size() && continues()) ++place;
  return static_cast<std::int64_t>(place);
}

std::pair<Corpus, Corpus> Corpus::split(double heldout_share) const {
  if (!(heldout_share > 0 && heldout_share < 1)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "held-out share", "above 0 and below 1", join(heldout_share));
  }
  const std::int64_t size = size_bytes();
  std::int64_t at = size - std::llround(heldout_share * static_cast<double>(size));
  at = std::clamp<std::int64_t>(at, 0, size - 1);
  std::size_t cut = 0;  // the part that is cut, and where
  while (at >= parts_[cut].end - parts_[cut].begin) {
    at -= parts_[cut].end - parts_[cut].begin;
    ++cut;
  }
  const Part& part = parts_[cut];
  const bool is_border = at == 0 && cut > 0;
  if (!is_border) {
    const std::int64_t border = border_after(part, at);
    const bool is_last = cut + 1 == parts_.size();
    at = border == part.end - part.begin && is_last ? border_inside(part, at) : border;
    part.file->forget(0, part.file->bytes().size());
  }
  std::pair<Corpus, Corpus> halves{*this, *this};
  auto& [first, last] = halves;
  first.parts_.resize(cut + 1);
  first.parts_.back().end = part.begin + at;
  last.parts_.erase(last.parts_.begin(), last.parts_.begin() + static_cast<std::ptrdiff_t>(cut));
  last.parts_.front().begin += at;
  for (Corpus* half : {&first, &last}) std::erase_if(half->parts_, [](const Part& p) { return p.begin == p.end; });
  if (first.parts_.empty() || last.parts_.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "split", "two parts that are not empty",
                 join(first.size_bytes(), " and ", last.size_bytes(), " bytes"),
                 "more text, smaller documents or another held-out share");
  }
  return halves;
}

void Corpus::for_each_document(const Visit& visit) const {
  for_documents_while([&](std::string_view text, std::int64_t consumed) {
    visit(text, consumed);
    return true;
  });
}

void Corpus::for_documents_while(const VisitWhile& visit) const {
  std::int64_t before = 0;
  for (const Part& part : parts_) {
    if (!(part.json_lines ? visit_json_lines(part, before, visit) : visit_text(part, before, visit))) return;
    before += part.end - part.begin;
  }
}

bool Corpus::visit_json_lines(const Part& part, std::int64_t before, const VisitWhile& visit) const {
  const std::string_view text = part.text();
  std::string document, expected, got;
  std::size_t forgotten = 0;
  for (std::size_t line = 0; line < text.size();) {
    const std::size_t end = next_line(text, line);
    const std::string_view content = text.substr(line, end - line);
    if (has_content(content)) {
      if (!read_json_line(content, options_.text_field, document, expected, got)) {
        const char* front = reinterpret_cast<const char*>(part.file->bytes().data());
        const auto number = 1 + std::count(front, content.data(), '\n');
        refuse_value(ErrorCode::kCorruptFile, kOp, join(part.path, ": line ", number), expected, got);
      }
      if (!document.empty() && !visit(document, before + static_cast<std::int64_t>(end))) return false;
    }
    line = end;
    if (line - forgotten >= kForgetBytes) {
      forget(text.substr(forgotten, line - forgotten));
      forgotten = line;
    }
  }
  return true;
}

bool Corpus::visit_text(const Part& part, std::int64_t before, const VisitWhile& visit) const {
  const std::string_view text = part.text();
  const bool is_whole = options_.separator == DocumentSeparator::kNone;
  std::size_t forgotten = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const Separator separator = find_separator(text, begin, options_.separator);
    std::string_view document = text.substr(begin, separator.begin - begin);
    if (!is_whole) document = without_line_break(document);
    if (!document.empty() && !visit(document, before + static_cast<std::int64_t>(separator.end))) return false;
    begin = separator.end;
    if (begin - forgotten >= kForgetBytes) {
      forget(text.substr(forgotten, begin - forgotten));
      forgotten = begin;
    }
  }
  return true;
}

void Corpus::forget(std::string_view text) const {
  for (const Part& part : parts_) {
    const std::string_view whole = part.text();
    const std::less_equal<> le;
    if (!le(whole.data(), text.data()) || !le(text.data() + text.size(), whole.data() + whole.size())) continue;
    part.file->forget(static_cast<std::size_t>(part.begin + (text.data() - whole.data())), text.size());
    return;
  }
}

std::uint64_t Corpus::fingerprint() const {
  const auto separator = document_separator_name(options_.separator);
  std::uint64_t hash = fnv1a(join(separator, "\n", options_.text_field, "\n"));
  for (const Part& part : parts_) {
    const std::string path = std::filesystem::absolute(part.path).lexically_normal().string();
    hash = fnv1a(join(path, "\n", part.file->bytes().size(), " ", part.changed_ns, " ", part.begin, " ", part.end, " ",
                      part.json_lines, "\n"),
                 hash);
  }
  return hash;
}

}  // namespace coluber
