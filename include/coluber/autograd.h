// Reverse-mode differentiation over the explicit op pairs of ops.h.
//
// A Var is a handle to a value and, when somebody asked for it, its gradient. A Tape remembers the backward half of
// every op that ran while it was attached; backward() plays them in reverse and frees what each had saved as it goes.
// Without a tape the same code is plain inference. The tape refuses what would make it large: broadcasting, in-place
// writes, lazy evaluation, dtype promotion and higher-order gradients.
//
//   Tape tape;
//   Graph graph{ctx, &tape};
//   Var loss = model.loss(graph, ids, targets);
//   tape.backward(ctx, loss);          // parameter.grad() now holds d loss / d parameter, added to what was there
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "coluber/context.h"
#include "coluber/ops.h"
#include "coluber/tensor.h"

namespace coluber {

// The gradient of what was split, which the gradients of its parts are columns of: made when the first part asks.
struct WholeGradient {
  Shape shape;
  DType dtype;
  Device device;
  Tensor tensor;
};

// The gradient of a Var, apart from its value. Entries of the tape hold this of an op's outputs, so that a value nobody
// reads again is freed at once. Tensors in it may be shared with other gradients and with whoever asked: what adds to
// one copies it first unless it is the only owner.
class Gradient {
 public:
  Gradient() = default;  // of a constant: nothing flows in
  Gradient(const Shape& shape, bool wanted) : slot_(std::make_shared<Slot>(Slot{{}, shape, wanted, {}, 0})) {}

  bool wanted() const { return slot_ != nullptr && slot_->wanted; }
  const Tensor& tensor() const;  // undefined until something has flowed in
  void set(Tensor tensor) const { slot_->tensor = std::move(tensor); }
  // Where the first tensor to flow in is best written: for a part of a split its columns of the whole, uninitialised.
  // Undefined where any memory does, or where something has flowed in.
  Tensor place() const;
  void make_part_of(std::shared_ptr<WholeGradient> whole, std::int64_t first_column) const;
  Tensor take() const { return slot_ == nullptr ? Tensor{} : std::exchange(slot_->tensor, {}); }
  void add(Context& ctx, const Tensor& tensor) const;
  // For adding in place: what tensor() is, with no other owner.
  Tensor writable(Context& ctx) const;

 private:
  friend class Var;
  struct Slot {
    Tensor tensor;
    Shape shape;
    bool wanted = false;
    std::shared_ptr<WholeGradient> whole;  // of a part of a split
    std::int64_t first_column = 0;
  };
  std::shared_ptr<Slot> slot_;
};

// A tensor that backward reads: kept, or made again by what made it when the first reader asks, for all of them.
class Saved {
 public:
  using Make = std::function<Tensor(Context&)>;
  explicit Saved(Tensor kept) : state_(std::make_shared<State>(State{std::move(kept), {}})) {}
  explicit Saved(Make make) : state_(std::make_shared<State>(State{{}, std::move(make)})) {}
  const Tensor& get(Context& ctx) const;

 private:
  struct State {
    Tensor tensor;
    Make make;
  };
  std::shared_ptr<State> state_;
};

class Var {
 public:
  Var() = default;
  Var(Tensor value, bool requires_grad = false);  // NOLINT: a tensor is a constant Var

  bool defined() const { return node_ != nullptr && node_->value.defined(); }
  const Tensor& value() const;  // undefined Tensor for an undefined Var
  bool requires_grad() const { return node_ != nullptr && node_->gradient.wanted(); }
  // Freezes a parameter, or frees it again, for the ops that run from here on.
  void set_requires_grad(bool wanted) const { node_->gradient.slot_->wanted = wanted; }

  // Undefined until something has flowed in, and again once backward has passed on what flowed into an op's output.
  const Tensor& grad() const { return gradient().tensor(); }
  void set_grad(Tensor grad) const { node_->gradient.set(std::move(grad)); }
  void set_value(Tensor value) const;
  void accumulate_grad(Context& ctx, const Tensor& grad) const { gradient().add(ctx, grad); }
  Gradient gradient() const { return node_ == nullptr ? Gradient{} : node_->gradient; }
  // Backward need not keep the value: `make` gives the same bits again.
  void set_made_again(Saved::Make make) const { node_->made_again = std::make_shared<Saved>(std::move(make)); }
  Saved saved() const;  // for a closure of the tape

 private:
  struct Node {
    Tensor value;
    Gradient gradient;
    std::shared_ptr<Saved> made_again;  // null: the value is kept
  };
  std::shared_ptr<Node> node_;
};

class Tape {
 public:
  // `backward` reads the gradients of the op's outputs and accumulates those of its inputs.
  void record(std::function<void(Context&)> backward) { entries_.push_back(std::move(backward)); }

  // Seeds grad(root) with `seed` (default: ones; shape and dtype of the root), plays every entry from last to first and
  // clears the tape. Refuses a constant root and an empty tape.
  void backward(Context& ctx, const Var& root, const Tensor& seed = {});
  // The same for several roots at once, for example an output and a final state; gradients are set beforehand.
  void backward_from_grads(Context& ctx);

  std::size_t size() const { return entries_.size(); }
  void clear() { entries_.clear(); }

 private:
  std::vector<std::function<void(Context&)>> entries_;
};

// What backward makes again instead of keeping it from forward (none: nothing). Gradients have the same bits.
//   light  what costs little beside its memory: outputs of norms and convolutions, and dt
//   scan   that, and the scan: its output and the states that its backward starts from
//   layer  all of a layer's mixer, from its input on, which is made again from the residual stream
enum class Recompute : std::uint8_t { kNone, kLight, kScan, kLayer };
std::string_view recompute_name(Recompute recompute);  // "none", "light", "scan", "layer"
Recompute recompute_from_name(std::string_view name);

// What a forward pass runs in.
struct Graph {
  Context& ctx;
  Tape* tape = nullptr;         // null: inference
  bool training = false;        // dropout is on
  DType compute = DType::kF32;  // of matrix products: kF32 or kBF16; on a GPU of activations too, and kF16 as well
  std::uint64_t dropout_seed = 0;
  std::uint64_t dropout_stream = 0;  // advanced by each dropout; set to a function of the step before each pass
  Recompute recompute = Recompute::kNone;
  Tensor dropout_base = {};  // () i64 on the device, optional: added to the streams when the work runs (ops::dropout)
};

// Which tokens belong together; as in ops.h.
struct Sequences {
  Tensor cu_seqlens;  // (s+1) i32, optional
  Tensor resets;      // (b,l) u8, optional
};

// Differentiable twins of the ops, same names and arguments.
namespace autograd {

Var linear(Graph& graph, const Var& x, const Var& weight, const Var& bias = {}, const Tensor& packed = {});
Var embedding(Graph& graph, const Tensor& ids, const Var& table);
// y and, when `residual_out` is given, x + residual.
Var norm(Graph& graph, const Var& x, const Var& weight, const Var& bias, const Var& residual, NormKind kind, double eps,
         Var* residual_out = nullptr);
Var gated_norm(Graph& graph, const Var& x, const Var& z, const Var& weight, const Var& bias, NormKind kind, double eps,
               bool norm_before_gate, std::int64_t group_size);
Var causal_conv1d(Graph& graph, const Var& x, const Var& weight, const Var& bias, bool silu, bool reverse,
                  const Sequences& sequences, const Var& state_in, Var* state_out);

struct SelectiveScanVars {
  Var u, dt, A, B, C, D, z, dt_bias, state_in;
};
Var selective_scan(Graph& graph, const SelectiveScanVars& vars, bool dt_softplus, bool reverse,
                   const Sequences& sequences, Var* state_out);

// f(inputs), of which the tape keeps the inputs alone: backward runs f once more, on a tape of its own. Any of the Vars
// may be undefined. f must give the same bits twice; what it captures is kept.
using Segment = std::function<std::vector<Var>(Graph&, const std::vector<Var>&)>;
std::vector<Var> recomputed(Graph& graph, const std::vector<Var>& inputs, const Segment& f);

// Parts of the last axis, as views; `sizes` add up to it.
std::vector<Var> split(Graph& graph, const Var& x, const std::vector<std::int64_t>& sizes);
Var reshape(Graph& graph, const Var& x, const Shape& shape);
Var add(Graph& graph, const Var& a, const Var& b);
Var neg_exp(Graph& graph, const Var& x);               // -e^x: A from A_log
Var rounded(Graph& graph, const Var& x, DType dtype);  // to `dtype` and back; the gradient passes as if it were x
Var dropout(Graph& graph, const Var& x, double p);
Var dot(Graph& graph, const Var& x, const Tensor& weights);  // sum(x * weights) in f64: the loss of gradient checks
// Mean cross entropy (an f64 scalar) of the head's logits, which are never kept whole; with a token_weight the sum
// times that, on its device (ops::LinearCrossEntropyArgs). A gradient of it on the CPU is read without waiting.
Var linear_cross_entropy(Graph& graph, const Var& x, const Var& weight, const Tensor& targets,
                         const Tensor& token_weight = {});

}  // namespace autograd

// Compares gradients with central differences in f64: the worst |analytic - numeric| / max(|analytic|, |numeric|,
// scale) of all `inputs`, scale being an input's largest gradient. `f` builds the scalar anew from the current values.
double gradcheck(Context& ctx, const std::vector<Var>& inputs, const std::function<Var(Graph&)>& f, double step = 1e-4);

}  // namespace coluber
