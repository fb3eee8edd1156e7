// safetensors: u64 header length, a JSON header, then the bytes of all tensors without gaps.
//
//   {"__metadata__": {"format": "pt"}, "name": {"dtype": "BF16", "shape": [2,3], "data_offsets": [begin, end]}, ...}
//
// Reading maps the file: tensors point into the mapping and hold it, nothing is copied. (A tensor that does not lie on
// a multiple of its element size, which old writers produced, is copied.) They are read-only: clone() before writing.
// Every offset is checked against shape, dtype, the neighbours and the file before a tensor is made; the refusal is
// kCorruptFile, or kUnsupported for a dtype that Tensor does not have. Called by models, train and selftest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/tensor_map.h"

namespace coluber {

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  // The same from memory; `name` stands for the path in refusals. Tensors hold `owner`; without one the memory must
  // outlive them.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& name,
                               std::shared_ptr<void> owner = {});

  const TensorMap& tensors() const { return tensors_; }
  const StringMap& metadata() const { return metadata_; }

 private:
  TensorMap tensors_;
  StringMap metadata_;
};

// Atomic (atomic_file.h). Streams tensor by tensor: memory beyond the tensors is the header, and one tensor when that
// is not contiguous. Tensors are laid out by falling element size, so that each is aligned.
void write_safetensors(const std::string& path, const TensorMap& tensors, const StringMap& metadata = {});

// model.safetensors when all fits into max_shard_bytes; else model-00001-of-0000N.safetensors and
// model.safetensors.index.json. All files are complete on the disk before the first gets its name, the index last;
// weights of an earlier save under other names of this scheme are removed then. Returns the names of the files written.
std::vector<std::string> write_safetensors_sharded(const std::string& dir, const TensorMap& tensors,
                                                   std::int64_t max_shard_bytes, const StringMap& metadata = {});

// Removes what write_safetensors_sharded wrote into `dir`, if anything.
void remove_safetensors(const std::string& dir);

}  // namespace coluber
