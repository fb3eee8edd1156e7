// State: everything that a model remembers of the tokens it has read, as a value.
//
// Copying a State copies its memory (a fork); assigning an older copy back is a rollback; save and load keep it across
// processes. Its size does not depend on how many tokens were read. Any number of tokens may follow any state, through
// forward or step, and gradients flow through both of its ends in training (modules.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coluber/tensor.h"

namespace coluber {

// What one Mamba-1 mixer carries.
struct LayerState {
  Tensor conv;  // (b,d,k-1) f32: the last raw inputs of the convolution, oldest first
  Tensor ssm;   // (b,d,n) f32
};

class State {
 public:
  State() = default;
  explicit State(std::vector<LayerState> layers, std::int64_t num_tokens = 0);
  State(const State& other);  // deep copies
  State& operator=(const State& other);
  State(State&&) noexcept = default;
  State& operator=(State&&) noexcept = default;

  std::int64_t batch() const;                              // sequences, 0 when empty
  std::int64_t num_tokens() const { return num_tokens_; }  // read so far, per sequence; packed: all together
  void advance(std::int64_t tokens) { num_tokens_ += tokens; }
  std::size_t num_layers() const { return layers_.size(); }
  const LayerState& layer(std::size_t i) const { return layers_.at(i); }
  std::int64_t size_bytes() const;

  void reset();                                    // as before the first token
  State row(std::int64_t i) const;                 // a copy of one sequence's state
  void set_row(std::int64_t i, const State& one);  // copies a state of batch 1 into slot i
  bool equals(const State& other) const;           // same bits
  State to(Device device) const;                   // a copy in the memory of a device

  // One safetensors file: layers.N.conv, layers.N.ssm and num_tokens. Written to a temporary name and renamed.
  void save(const std::string& path) const;
  static State load(const std::string& path);

 private:
  std::vector<LayerState> layers_;
  std::int64_t num_tokens_ = 0;
};

}  // namespace coluber
