#include "io/zip_reader.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/content.h"
#include "io/zip_format.h"

namespace coluber {
namespace {

constexpr std::string_view kOp = "torch_bin";
constexpr std::size_t kMaxCommentBytes = 0xffff;

// Reads numbers off a part of the file; the caller has checked that the part is long enough.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  T next() {
    T value = 0;
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  void skip(std::size_t count) { bytes_ = bytes_.subspan(count); }
  std::size_t size() const { return bytes_.size(); }
  std::span<const std::byte> take(std::size_t count) {
    const auto part = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return part;
  }

 private:
  std::span<const std::byte> bytes_;
};

struct Directory {
  std::uint64_t offset = 0, size = 0, num_records = 0;
  std::uint64_t end = 0;  // where the end record starts, behind the directory
};

struct Entry {
  std::string name;
  std::uint16_t flags = 0, method = 0;
  std::uint32_t crc = 0;
  std::uint64_t packed_size = 0, size = 0, offset = 0;
};

class Reader {
 public:
  Reader(const std::string& name, std::span<const std::byte> bytes) : name_(name), bytes_(bytes) {}

  ZipRecords read() {
    directory_ = find_directory();
    ZipRecords records;
    Fields fields(bytes_.subspan(directory_.offset, directory_.size));
    for (std::uint64_t i = 0; i < directory_.num_records; ++i) {
      const Entry entry = read_entry(fields);
      const ZipRecord record{locate(entry), entry.crc};
      if (!records.emplace(entry.name, record).second) {
        refuse_archive(join("record ", printable(entry.name)), "one of that name", "two");
      }
    }
    check_overlaps(records);
    return records;
  }

 private:
  [[noreturn]] void refuse_archive(std::string_view what, std::string_view expected, std::string_view got,
                                   std::string_view hint = {}) const {
    refuse_value(ErrorCode::kCorruptFile, kOp, join(name_, ": ", what), expected, got, hint);
  }

  bool is_inside(std::uint64_t offset, std::uint64_t size, std::uint64_t limit) const {
    return offset <= limit && size <= limit - offset;
  }

  std::uint32_t signature_at(std::uint64_t offset) const {
    return Fields(bytes_.subspan(offset, 4)).next<std::uint32_t>();
  }

  // The end record is the last thing in the file but for a comment whose length it states.
  std::uint64_t find_end() const {
    const std::uint64_t size = bytes_.size();
    const std::uint64_t deepest = zip::kEndBytes + kMaxCommentBytes;
    for (std::uint64_t back = zip::kEndBytes; back <= std::min(size, deepest); ++back) {
      if (signature_at(size - back) != zip::kEnd) continue;
      Fields comment(bytes_.subspan(size - back + 20, 2));
      if (comment.next<std::uint16_t>() == back - zip::kEndBytes) return size - back;
    }
    refuse_archive("zip archive", "its list of records at the end of the file", join("none in ", size, " bytes"),
                   "an interrupted download?");
  }

  Directory find_directory() const {
    Directory directory;
    directory.end = find_end();
    Fields end(bytes_.subspan(directory.end, zip::kEndBytes));
    end.skip(10);  // signature, numbers of disks, records on this disk
    directory.num_records = end.next<std::uint16_t>();
    directory.size = end.next<std::uint32_t>();
    directory.offset = end.next<std::uint32_t>();
    if (directory.num_records == zip::kSee64Count || directory.size == zip::kSee64 || directory.offset == zip::kSee64)
      read_end64(directory);
    if (!is_inside(directory.offset, directory.size, directory.end)) {
      refuse_archive("zip archive", join("a list of records before byte ", directory.end),
                     join(directory.size, " bytes from ", directory.offset));
    }
    return directory;
  }

  void read_end64(Directory& directory) const {
    if (directory.end < zip::kEnd64LocatorBytes ||
        signature_at(directory.end - zip::kEnd64LocatorBytes) != zip::kEnd64Locator) {
      refuse_archive("zip64 archive", "a locator before the end record", "none");
    }
    Fields locator(bytes_.subspan(directory.end - zip::kEnd64LocatorBytes, zip::kEnd64LocatorBytes));
    locator.skip(8);
    const auto offset = locator.next<std::uint64_t>();
    if (!is_inside(offset, zip::kEnd64Bytes, directory.end) || signature_at(offset) != zip::kEnd64)
      refuse_archive("zip64 archive", "an end record where its locator says", join("none at byte ", offset));
    Fields end(bytes_.subspan(offset, zip::kEnd64Bytes));
    end.skip(32);  // signature, size, versions, numbers of disks, records on this disk
    directory.num_records = end.next<std::uint64_t>();
    directory.size = end.next<std::uint64_t>();
    directory.offset = end.next<std::uint64_t>();
    directory.end = offset;
  }

  Entry read_entry(Fields& fields) const {
    const auto need = [&](std::size_t count) {
      if (fields.size() < count) refuse_archive("zip archive", "a whole list of records", "a cut one");
    };
    need(zip::kCentralHeaderBytes);
    if (fields.next<std::uint32_t>() != zip::kCentralHeader)
      refuse_archive("zip archive", "a list of records", "other bytes");
    Entry entry;
    fields.skip(4);  // versions
    entry.flags = fields.next<std::uint16_t>();
    entry.method = fields.next<std::uint16_t>();
    fields.skip(4);  // time, date
    entry.crc = fields.next<std::uint32_t>();
    entry.packed_size = fields.next<std::uint32_t>();
    entry.size = fields.next<std::uint32_t>();
    const std::size_t name_size = fields.next<std::uint16_t>();
    const std::size_t extra_size = fields.next<std::uint16_t>();
    const std::size_t comment_size = fields.next<std::uint16_t>();
    fields.skip(8);  // disk, attributes
    entry.offset = fields.next<std::uint32_t>();
    need(name_size + extra_size + comment_size);
    const auto name = fields.take(name_size);
    entry.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    read_extra(Fields(fields.take(extra_size)), entry);
    fields.skip(comment_size);
    return entry;
  }

  // The zip64 field holds, in this order, those numbers that did not fit above.
  void read_extra(Fields extra, Entry& entry) const {
    std::vector<std::uint64_t*> large;
    for (std::uint64_t* number : {&entry.size, &entry.packed_size, &entry.offset}) {
      if (*number == zip::kSee64) large.push_back(number);
    }
    while (!large.empty()) {
      if (extra.size() < 4) break;
      const auto id = extra.next<std::uint16_t>();
      const std::size_t size = extra.next<std::uint16_t>();
      if (size > extra.size()) break;
      Fields field(extra.take(size));
      if (id != zip::kZip64Extra) continue;
      if (size < 8 * large.size()) break;
      for (std::uint64_t* number : large) *number = field.next<std::uint64_t>();
      return;
    }
    if (!large.empty()) refuse_archive(join("record ", printable(entry.name)), "its size in a zip64 field", "none");
  }

  std::span<const std::byte> locate(const Entry& entry) const {
    const std::string what = join("record ", printable(entry.name));
    if (entry.method != 0 || (entry.flags & zip::kEncrypted) != 0) {
      refuse_value(ErrorCode::kUnsupported, kOp, join(name_, ": ", what), "stored, as torch writes",
                   entry.method != 0 ? "a compressed one" : "an encrypted one");
    }
    if (entry.packed_size != entry.size) {
      refuse_archive(what, join(entry.size, " bytes"), join(entry.packed_size, " stored"));
    }
    if (!is_inside(entry.offset, zip::kLocalHeaderBytes, directory_.offset) ||
        signature_at(entry.offset) != zip::kLocalHeader) {
      refuse_archive(what, join("its header at byte ", entry.offset), "none");
    }
    Fields local(bytes_.subspan(entry.offset + 26, 4));
    const std::size_t name_size = local.next<std::uint16_t>();
    const std::size_t extra_size = local.next<std::uint16_t>();
    const std::uint64_t begin = entry.offset + zip::kLocalHeaderBytes + name_size + extra_size;
    if (!is_inside(begin, entry.size, directory_.offset)) {
      refuse_archive(what, join("data before byte ", directory_.offset), join(entry.size, " bytes from ", begin));
    }
    const auto local_name = bytes_.subspan(entry.offset + zip::kLocalHeaderBytes, name_size);
    if (std::string_view(reinterpret_cast<const char*>(local_name.data()), name_size) != entry.name)
      refuse_archive(what, "the same name in its header", "another");
    return bytes_.subspan(begin, entry.size);
  }

  void check_overlaps(const ZipRecords& records) const {
    std::vector<std::pair<const std::byte*, const std::byte*>> spans;
    for (const auto& [name, record] : records) {
      if (!record.bytes.empty()) spans.emplace_back(record.bytes.data(), record.bytes.data() + record.bytes.size());
    }
    std::sort(spans.begin(), spans.end());
    for (std::size_t i = 1; i < spans.size(); ++i) {
      if (spans[i].first < spans[i - 1].second) refuse_archive("records", "separate ones", "two that overlap");
    }
  }

  const std::string& name_;
  std::span<const std::byte> bytes_;
  Directory directory_;
};

}  // namespace

ZipRecords read_zip(const std::string& name, std::span<const std::byte> bytes) {
  return Reader(name, bytes).read();
}

}  // namespace coluber
