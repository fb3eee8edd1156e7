#include "coluber/autograd.h"
#include "core/check.h"

namespace coluber {

const Tensor& Var::value() const {
  static const Tensor undefined;
  return node_ == nullptr ? undefined : node_->value;
}

void Var::accumulate_grad(Context& ctx, const Tensor& grad) const {
  if (!requires_grad() || !grad.defined()) return;
  if (!(grad.shape() == value().shape())) {
    refuse_value(ErrorCode::kInternal, "autograd", "shape of a gradient", value().shape().to_string(),
                 grad.shape().to_string());
  }
  if (node_->grad.defined()) {
    ops::add_inplace(ctx, node_->grad, grad);
  } else {
    // Two Vars may receive the same tensor (both terms of a sum), and views may overlap it: only a tensor that nobody
    // else can write is taken over.
    node_->grad = grad.is_sole_owner() ? grad : grad.clone();
  }
}

void Tape::backward(Context& ctx, const Var& root, const Tensor& seed) {
  if (!root.requires_grad()) {
    refuse(ErrorCode::kInvalidArgument, "autograd",
           "backward: expected a root that depends on a parameter, got a constant (was the tape attached to the Graph?)");
  }
  root.accumulate_grad(ctx, seed.defined() ? seed.clone() : Tensor::full(root.value().shape(), 1, root.value().dtype()));
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
