// MappedFile: a whole file as read-only memory.
//
// Opening costs the same for any size; pages are read when they are touched and shared with the system's file cache.
// Tensors that point into a file hold the shared_ptr, so the mapping lives as long as the last of them. Memory of a
// mapping must not be written to (the processor refuses): clone() a tensor first. A file that another program cuts
// short while it is mapped ends the process at the next touch (SIGBUS); writers of ours rename instead (atomic_file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace coluber {

class MappedFile {
 public:
  // `op` opens the sentence when it refuses: kNotFound for a missing path, kIo for one that cannot be read or is no
  // regular file, kCorruptFile for an empty one.
  static std::shared_ptr<MappedFile> open(std::string_view op, const std::string& path);
  // Of an open file, which may be closed afterwards: one without a name, most often. `path` is for refusals.
  static std::shared_ptr<MappedFile> of_descriptor(std::string_view op, const std::string& path, int descriptor);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // Gives pages of that range back to the system: touched again, they come from its cache. Whoever passes over a large
  // file once stays small by it; right at any time and for any range.
  void forget(std::size_t offset, std::size_t size) const;

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}

  const std::byte* data_;
  std::size_t size_;
};

}  // namespace coluber
