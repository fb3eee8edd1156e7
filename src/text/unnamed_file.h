// A file on the disk that has no name and is gone with the last that holds it, however the program ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace coluber {

class MappedFile;

class UnnamedFile {
 public:
  // In TMPDIR, else /var/tmp (which is a disk where /tmp may be memory), else /tmp. Throws kIo.
  explicit UnnamedFile(std::string_view op);
  ~UnnamedFile();
  UnnamedFile(const UnnamedFile&) = delete;
  UnnamedFile& operator=(const UnnamedFile&) = delete;

  void write(const void* data, std::size_t size);                         // at the end
  void rewrite(std::int64_t offset, const void* data, std::size_t size);  // over what is there
  std::int64_t size_bytes() const { return size_bytes_; }
  // Stays when this object goes; refused when nothing was written.
  std::shared_ptr<MappedFile> map(const std::string& name) const;

 private:
  std::string op_, folder_;
  std::int64_t size_bytes_ = 0;
  int descriptor_ = -1;
};

}  // namespace coluber
