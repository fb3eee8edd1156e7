// pytorch_model.bin: a zip archive with a pickle, NAME/data.pkl, that refers to storages, NAME/data/0, 1, 2, ...
//
// A pickle is a program. Ours runs on a machine that can only build dicts, lists, tuples, numbers, strings and tensors:
// it knows the opcodes that torch.save uses for a state_dict (protocols 2 to 4) and a fixed list of names
// (collections.OrderedDict, torch._utils._rebuild_tensor_v2, torch.FloatStorage, ...); any other opcode or name is
// refused by name, so no code is ever run. Tensors are views of the mapped file with the offset, size and stride that
// the pickle gives, each checked against its storage; tensors that share a storage still share it. They are read-only.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "io/tensor_map.h"

namespace coluber {

TensorMap read_torch_bin(const std::string& path);

// The same from memory; `name` stands for the path in refusals. Tensors hold `owner`; without one the memory must
// outlive them.
TensorMap parse_torch_bin(std::span<const std::byte> bytes, const std::string& name, std::shared_ptr<void> owner = {});

// A state_dict that torch.load(path, weights_only=True) reads. Atomic, streaming; tensors with the same memory share a
// storage (tied embeddings).
void write_torch_bin(const std::string& path, const TensorMap& tensors);

}  // namespace coluber
