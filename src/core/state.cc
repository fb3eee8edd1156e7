#include "coluber/state.h"

#include <cstring>

#include "core/check.h"

namespace coluber {
namespace {

LayerState clone(const LayerState& layer) {
  return {layer.conv.clone(), layer.ssm.clone()};
}

bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.device().is_cpu() || !b.device().is_cpu()) return same_bits(a.to(kCpuDevice), b.to(kCpuDevice));
  return a.dtype() == b.dtype() && a.shape() == b.shape() && a.is_contiguous() && b.is_contiguous() &&
         std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

}  // namespace

State::State(std::vector<LayerState> layers, std::int64_t num_tokens)
    : layers_(std::move(layers)), num_tokens_(num_tokens) {}

State::State(const State& other) : num_tokens_(other.num_tokens_) {
  layers_.reserve(other.layers_.size());
  for (const LayerState& layer : other.layers_) layers_.push_back(clone(layer));
}

State& State::operator=(const State& other) {
  if (this != &other) *this = State(other);
  return *this;
}

std::int64_t State::batch() const {
  return layers_.empty() ? 0 : layers_[0].ssm.size(0);
}

std::int64_t State::size_bytes() const {
  std::int64_t bytes = 0;
  for (const LayerState& layer : layers_) bytes += layer.conv.size_bytes() + layer.ssm.size_bytes();
  return bytes;
}

void State::reset() {
  for (const LayerState& layer : layers_) {
    layer.conv.fill(0);
    layer.ssm.fill(0);
  }
  num_tokens_ = 0;
}

State State::row(std::int64_t i) const {
  std::vector<LayerState> layers;
  for (const LayerState& layer : layers_)
    layers.push_back({layer.conv.slice(0, i, i + 1).clone(), layer.ssm.slice(0, i, i + 1).clone()});
  return State(std::move(layers), num_tokens_);
}

void State::set_row(std::int64_t i, const State& one) {
  check_equal("state", "layers", static_cast<long long>(layers_.size()), static_cast<long long>(one.layers_.size()));
  for (std::size_t n = 0; n < layers_.size(); ++n) {
    layers_[n].conv.slice(0, i, i + 1).copy_from(one.layers_[n].conv);
    layers_[n].ssm.slice(0, i, i + 1).copy_from(one.layers_[n].ssm);
  }
}

State State::to(Device device) const {
  State copy = *this;
  for (LayerState& layer : copy.layers_) layer = {layer.conv.to(device), layer.ssm.to(device)};
  return copy;
}

bool State::equals(const State& other) const {
  if (layers_.size() != other.layers_.size() || num_tokens_ != other.num_tokens_) return false;
  for (std::size_t n = 0; n < layers_.size(); ++n) {
    if (!same_bits(layers_[n].conv, other.layers_[n].conv) || !same_bits(layers_[n].ssm, other.layers_[n].ssm))
      return false;
  }
  return true;
}

}  // namespace coluber
