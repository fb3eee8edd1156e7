// A part of a pass that backward runs once more instead of keeping what it made.
#include "coluber/autograd.h"

namespace coluber::autograd {
namespace {

struct Replay {
  Segment f;
  std::vector<Saved> inputs;
  std::vector<Gradient> to_inputs, of_outputs;
  bool training;
  DType compute;
  std::uint64_t dropout_seed, dropout_stream;  // as they were before f
  Tensor dropout_base;

  void backward(Context& ctx) const {
    std::vector<Tensor> grads;
    bool any = false;
    for (const Gradient& of_output : of_outputs) any = grads.emplace_back(of_output.take()).defined() || any;
    if (!any) return;
    Tape tape;
    Graph graph{ctx, &tape, training, compute, dropout_seed, dropout_stream, Recompute::kNone, dropout_base};
    std::vector<Var> x;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Tensor& value = inputs[i].get(ctx);
      x.push_back(value.defined() ? Var(value, to_inputs[i].wanted()) : Var{});
    }
    const std::vector<Var> y = f(graph, x);
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (grads[i].defined()) y[i].set_grad(std::exchange(grads[i], {}));
    }
    tape.backward_from_grads(ctx);
    for (std::size_t i = 0; i < x.size(); ++i) to_inputs[i].add(ctx, x[i].gradient().take());
  }
};

}  // namespace

std::vector<Var> recomputed(Graph& graph, const std::vector<Var>& inputs, const Segment& f) {
  if (graph.tape == nullptr) return f(graph, inputs);
  Replay replay{
      f, {}, {}, {}, graph.training, graph.compute, graph.dropout_seed, graph.dropout_stream, graph.dropout_base};
  for (const Var& input : inputs) {
    replay.inputs.push_back(input.saved());
    replay.to_inputs.push_back(input.gradient());
  }
  Graph plain = graph;
  plain.tape = nullptr;
  std::vector<Var> outputs;
  for (const Var& made : f(plain, inputs)) {
    outputs.push_back(made.defined() ? Var(made.value(), true) : Var{});
    replay.of_outputs.push_back(outputs.back().gradient());
  }
  graph.dropout_stream = plain.dropout_stream;
  graph.tape->record([replay = std::move(replay)](Context& ctx) { replay.backward(ctx); });
  return outputs;
}

}  // namespace coluber::autograd
