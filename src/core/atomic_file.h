// Files that are there whole or not at all.
//
// AtomicFile writes to a temporary name in the same folder, and commit() syncs it to the disk, renames it over the
// target and syncs the folder. A reader, or a machine that starts again after a power cut, finds the old file or the
// new one. When anything fails (a full disk, most often) the temporary file is removed, the old file stays, and kIo is
// thrown with path, the system's reason and the bytes that were needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace coluber {

class AtomicFile {
 public:
  // `size_bytes`, when known, lets a full disk be noticed before the first byte is written. `op` opens the sentence of
  // a refusal.
  AtomicFile(std::string_view op, std::string path, std::int64_t size_bytes = 0);
  ~AtomicFile();  // without commit(): the temporary file goes
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size);
  // Replaces bytes that are written already: a header with counts that are known only at the end.
  void rewrite(std::int64_t offset, const void* data, std::size_t size);
  void sync();    // all bytes are on the disk; commit() does it when it was not done
  void commit();  // at most once

 private:
  void follow_links();
  void create_temporary();
  void reserve();
  void discard();
  [[noreturn]] void fail(std::string_view doing, int error);

  std::string op_, path_, temporary_;
  std::int64_t size_bytes_ = 0;
  std::int64_t written_bytes_ = 0;
  int descriptor_ = -1;
  bool synced_ = false;
};

void write_file_atomically(const std::string& path, std::string_view text);

// The folder and those above it; fine when it is there already.
void ensure_directory(const std::string& path);

}  // namespace coluber
