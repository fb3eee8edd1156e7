#include "coluber/autograd.h"
#include "core/check.h"

namespace coluber {

const Tensor& Var::value() const {
  static const Tensor undefined;
  return node_ == nullptr ? undefined : node_->value;
}

Var::Var(Tensor value, bool requires_grad) {
  Gradient gradient(value.shape(), requires_grad);
  node_ = std::make_shared<Node>(Node{std::move(value), std::move(gradient), {}});
}

void Var::set_value(Tensor value) const {
  node_->gradient.slot_->shape = value.shape();
  node_->value = std::move(value);
}

Saved Var::saved() const {
  if (node_ == nullptr) return Saved(Tensor{});
  return node_->made_again != nullptr ? *node_->made_again : Saved(node_->value);
}

const Tensor& Saved::get(Context& ctx) const {
  if (!state_->tensor.defined() && state_->make) state_->tensor = state_->make(ctx);
  return state_->tensor;
}

std::string_view recompute_name(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone: return "none";
    case Recompute::kLight: return "light";
    case Recompute::kScan: return "scan";
    case Recompute::kLayer: break;
  }
  return "layer";
}

Recompute recompute_from_name(std::string_view name) {
  for (const Recompute known : {Recompute::kNone, Recompute::kLight, Recompute::kScan, Recompute::kLayer}) {
    if (recompute_name(known) == name) return known;
  }
  refuse_value(ErrorCode::kInvalidArgument, "autograd", "recompute", "none, light, scan or layer", std::string(name));
}

const Tensor& Gradient::tensor() const {
  static const Tensor undefined;
  return slot_ == nullptr ? undefined : slot_->tensor;
}

void Gradient::add(Context& ctx, const Tensor& tensor) const {
  if (!wanted() || !tensor.defined()) return;
  if (!(tensor.shape() == slot_->shape)) {
    refuse_value(ErrorCode::kInternal, "autograd", "shape of a gradient", slot_->shape.to_string(),
                 tensor.shape().to_string());
  }
  if (slot_->tensor.defined()) {
    ops::add_inplace(ctx, writable(ctx), tensor);
  } else {
    slot_->tensor = tensor;
  }
}

Tensor Gradient::place() const {
  if (!wanted() || slot_->whole == nullptr || slot_->tensor.defined()) return {};
  WholeGradient& whole = *slot_->whole;
  if (!whole.tensor.defined()) whole.tensor = Tensor::empty(whole.shape, whole.dtype, whole.device);
  return whole.tensor.slice(-1, slot_->first_column, slot_->first_column + slot_->shape[slot_->shape.rank() - 1]);
}

void Gradient::make_part_of(std::shared_ptr<WholeGradient> whole, std::int64_t first_column) const {
  slot_->whole = std::move(whole);
  slot_->first_column = first_column;
}

Tensor Gradient::writable(Context& ctx) const {
  if (slot_ == nullptr || !slot_->tensor.defined()) return {};
  if (!slot_->tensor.is_sole_owner() || !slot_->tensor.is_contiguous()) {
    const Tensor own = Tensor::empty(slot_->tensor.shape(), slot_->tensor.dtype(), slot_->tensor.device());
    ops::copy(ctx, own, slot_->tensor);
    slot_->tensor = own;
  }
  return slot_->tensor;
}

void Tape::backward(Context& ctx, const Var& root, const Tensor& seed) {
  if (!root.requires_grad()) {
    refuse(
        ErrorCode::kInvalidArgument, "autograd",
        "backward: expected a root that depends on a parameter, got a constant (was the tape attached to the Graph?)");
  }
  if (entries_.empty()) {
    refuse(ErrorCode::kInvalidArgument, "autograd",
           "backward: expected what the root was computed by, got an empty tape (it was played or cleared before)");
  }
  const Tensor& value = root.value();
  if (seed.defined() && !(seed.shape() == value.shape() && seed.dtype() == value.dtype())) {
    refuse_value(ErrorCode::kInvalidArgument, "autograd", "seed of backward",
                 join(value.shape().to_string(), " ", dtype_name(value.dtype()), ", as the root is"),
                 join(seed.shape().to_string(), " ", dtype_name(seed.dtype())));
  }
  root.accumulate_grad(ctx, seed.defined() ? seed : Tensor::full(value.shape(), 1, value.dtype(), value.device()));
  backward_from_grads(ctx);
}

void Tape::backward_from_grads(Context& ctx) {
  while (!entries_.empty()) {
    const std::function<void(Context&)> entry = std::move(entries_.back());
    entries_.pop_back();  // what the entry saved is freed when it has run
    entry(ctx);
  }
}

}  // namespace coluber
