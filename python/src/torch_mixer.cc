// A whole Mamba mixer (include/coluber/modules.h) on torch tensors, forward and backward in one call each, so that a
// torch module costs what the native one does. And checkpoints as torch tensors.
//
// What forward keeps for backward, a tape, is a C++ object. torch holds it as it holds saved tensors: by a tensor of
// one integer, the run's number, whose memory belongs to the run. Freeing that tensor frees the tape (after backward,
// or at once under torch.utils.checkpoint). When the number leads to no tape, because it was played already
// (retain_graph) or torch kept a copy of the tensor instead of itself, forward is run again from the inputs.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "coluber/model.h"
#include "src/arrays.h"
#include "src/torch_tensors.h"

namespace coluber::python {
namespace {

// In the order in which Mamba appends its parameters.
enum Weight { kInProj, kInBias, kConv, kConvBias, kXProj, kDtProj, kDtBias, kALog, kD, kOutProj, kOutBias, kWeights };
constexpr std::array<const char*, kWeights> kNames = {"in_proj.weight",  "in_proj.bias",  "conv1d.weight",
                                                      "conv1d.bias",     "x_proj.weight", "dt_proj.weight",
                                                      "dt_proj.bias",    "A_log",         "D",
                                                      "out_proj.weight", "out_proj.bias"};

struct Inputs {
  Tensor x;
  std::unique_ptr<TorchScope> scope;  // as long as the call
  std::array<Tensor, kWeights> weights;
  Tensor conv_state, ssm_state;  // (b,d,k-1), (b,d,n); undefined: zeros
  Sequences sequences;
  DType compute = DType::kF32;
  std::optional<double>
      norm_eps;  // of dt, B and C divided by their root mean square (Falcon-Mamba); unset: they are not
};

// Of what a gradient is wanted: x, conv_state, ssm_state and the weights in order, as torch counts the arguments.
struct Wanted {
  bool x = false, conv_state = false, ssm_state = false;
  std::array<bool, kWeights> weights{};

  // () for none, as without autograd.
  explicit Wanted(nb::tuple flags) {
    if (flags.size() == 0) return;
    if (flags.size() != kWeights + 3) throw nb::type_error("[mamba] wanted: expected 14 flags or none");
    auto flag = [&](std::size_t i) { return nb::cast<bool>(flags[i]); };
    x = flag(0);
    conv_state = flag(1);
    ssm_state = flag(2);
    for (std::size_t i = 0; i < kWeights; ++i) weights[i] = flag(i + 3);
  }
  bool any() const {
    return x || conv_state || ssm_state || std::any_of(weights.begin(), weights.end(), [](bool flag) { return flag; });
  }
};

Inputs borrow_inputs(nb::handle x, nb::tuple weights, nb::handle conv_state, nb::handle ssm_state,
                     nb::handle cu_seqlens, nb::handle resets, bool compute_bf16, std::optional<double> norm_eps) {
  if (weights.size() != kWeights)
    throw nb::type_error("[mamba] weights: expected 11 tensors, None for a bias that is off");
  const Borrower from("mamba", x, "hidden_states", {}, Borrowed::kForTape);
  Inputs in;
  in.x = from.first();
  in.scope = std::make_unique<TorchScope>(in.x);
  for (std::size_t i = 0; i < kWeights; ++i) {
    const bool matrix = i == kInProj || i == kXProj || i == kDtProj || i == kOutProj;
    in.weights[i] = matrix ? from.weight(weights[i], kNames[i]) : from.parameter(weights[i], kNames[i]);
  }
  if (Tensor& conv = in.weights[kConv]; conv.rank() == 3) conv = conv.select(1, 0);  // (d,1,k) of torch
  in.conv_state = from.parameter(conv_state, "conv_state");
  in.ssm_state = from.parameter(ssm_state, "ssm_state");
  in.sequences = {borrow_indices(cu_seqlens, "cu_seqlens"), borrow(resets, "resets", Borrowed::kForTape)};
  in.compute = compute_bf16 && in.x.dtype() == DType::kF32 ? DType::kBF16 : DType::kF32;
  in.norm_eps = norm_eps;
  return in;
}

void check_shape(std::size_t i, const Tensor& weight, const Shape& expected) {
  if (weight.shape() == expected) return;
  throw Error(ErrorCode::kInvalidArgument, "mamba",
              std::string(kNames[i]) + ": expected " + expected.to_string() + ", got " + weight.shape().to_string());
}

MambaConfig config_of(const Inputs& in) {
  const std::array<Tensor, kWeights>& w = in.weights;
  for (const auto& [weight, rank] : {std::pair{kInProj, 2}, {kConv, 2}, {kDtProj, 2}, {kALog, 2}}) {
    if (!w[weight].defined() || w[weight].rank() != rank) {
      throw Error(ErrorCode::kInvalidArgument, "mamba",
                  std::string(kNames[weight]) + ": expected " + std::to_string(rank) + " axes, got " +
                      (w[weight].defined() ? w[weight].shape().to_string() : "None"));
    }
  }
  MambaConfig config;
  config.d_model = w[kInProj].size(1);
  config.d_inner = w[kConv].size(0);
  config.d_conv = w[kConv].size(1);
  config.dt_rank = w[kDtProj].size(1);
  config.d_state = w[kALog].size(1);
  config.bias = w[kInBias].defined();
  config.conv_bias = w[kConvBias].defined();
  config.norm_dt_B_C = in.norm_eps.has_value();
  config.norm_dt_B_C_eps = in.norm_eps.value_or(config.norm_dt_B_C_eps);
  return config;
}

struct BorrowedMamba {
  Mamba mixer;
  std::array<Var, kWeights> vars;  // undefined where there is no weight

  explicit BorrowedMamba(const Inputs& in) : mixer(config_of(in), Init{.placeholder = true}, "") {
    const std::array<Tensor, kWeights>& weights = in.weights;
    Parameters parameters;
    mixer.append_parameters(parameters);
    std::size_t next = 0;
    for (std::size_t i = 0; i < kWeights; ++i) {
      const bool given = weights[i].defined();
      if (given != (next < parameters.size() && parameters[next].name == kNames[i])) {
        throw Error(ErrorCode::kInvalidArgument, "mamba",
                    std::string(kNames[i]) + (given ? ": expected None beside an in_proj without bias, got a tensor"
                                                    : ": expected a tensor, got None"));
      }
      if (!given) continue;
      check_shape(i, weights[i], parameters[next].var.value().shape());
      parameters[next].var.set_value(weights[i]);
      vars[i] = parameters[next++].var;
    }
  }
};

struct MixerRun {
  std::int64_t id = 0;
  std::atomic<bool> played{false};
  Tape tape;
  Var x, conv_in, ssm_in;
  std::array<Var, kWeights> vars;
  Var out;
  MixerState last;
};

struct Runs {
  std::mutex mutex;
  std::int64_t next = 1;
  std::unordered_map<std::int64_t, std::weak_ptr<MixerRun>> by_id;
};

Runs& runs() {
  static auto* const all = new Runs;  // never destroyed: torch may free tensors as the process ends
  return *all;
}

std::shared_ptr<MixerRun> new_run() {
  const std::shared_ptr<MixerRun> run(new MixerRun, [](MixerRun* r) {
    {
      const std::lock_guard lock(runs().mutex);
      runs().by_id.erase(r->id);
    }
    delete r;
  });
  const std::lock_guard lock(runs().mutex);
  run->id = runs().next++;
  runs().by_id[run->id] = run;
  return run;
}

std::shared_ptr<MixerRun> find_run(std::int64_t id) {
  std::shared_ptr<MixerRun> run;
  const std::lock_guard lock(runs().mutex);
  if (const auto found = runs().by_id.find(id); found != runs().by_id.end()) run = found->second.lock();
  return run;
}

void forward_into(MixerRun& run, Context& ctx, const Inputs& in, const Wanted& wanted, bool want_state) {
  BorrowedMamba borrowed(in);
  run.vars = borrowed.vars;
  for (std::size_t i = 0; i < kWeights; ++i)
    if (run.vars[i].defined()) run.vars[i].set_requires_grad(wanted.weights[i]);
  run.x = Var(in.x, wanted.x);
  run.conv_in = Var(in.conv_state, wanted.conv_state);
  run.ssm_in = Var(in.ssm_state, wanted.ssm_state);
  Graph graph{ctx, wanted.any() ? &run.tape : nullptr};
  graph.compute = in.compute;
  MixerState before{in.conv_state.defined() ? run.conv_in : Var{}, in.ssm_state.defined() ? run.ssm_in : Var{}};
  const bool has_state = in.conv_state.defined() || in.ssm_state.defined();
  run.out = borrowed.mixer.forward(graph, run.x, in.sequences, has_state ? &before : nullptr,
                                   want_state ? &run.last : nullptr);
}

// (out, conv state or None, ssm state or None, the run's number or None)
nb::tuple mixer_forward(nb::handle x, nb::tuple weights, nb::handle conv_state, nb::handle ssm_state,
                        nb::handle cu_seqlens, nb::handle resets, bool compute_bf16, std::optional<double> norm_eps,
                        bool want_state, nb::tuple wanted_flags) {
  const Inputs in = borrow_inputs(x, weights, conv_state, ssm_state, cu_seqlens, resets, compute_bf16, norm_eps);
  const Wanted wanted(wanted_flags);
  const std::shared_ptr<MixerRun> run = new_run();
  run_on(in.x.device(), [&](Context& ctx) { forward_into(*run, ctx, in, wanted, want_state); });
  nb::object number = nb::none();
  if (wanted.any()) number = give(Tensor::from_memory(&run->id, {1}, DType::kI64, run));
  return nb::make_tuple(give(run->out.value()), give(run->last.conv.value()), give(run->last.ssm.value()), number);
}

// Gradients of x, conv_state, ssm_state and the weights in order; None where none is wanted or nothing flowed in.
nb::list mixer_backward(nb::handle number, nb::handle grad_out, nb::handle grad_conv, nb::handle grad_ssm, nb::handle x,
                        nb::tuple weights, nb::handle conv_state, nb::handle ssm_state, nb::handle cu_seqlens,
                        nb::handle resets, bool compute_bf16, std::optional<double> norm_eps, nb::tuple wanted_flags) {
  const Inputs in = borrow_inputs(x, weights, conv_state, ssm_state, cu_seqlens, resets, compute_bf16, norm_eps);
  const Wanted wanted(wanted_flags);
  const Borrower from("mamba", x, "hidden_states", {}, Borrowed::kForTape);
  const Tensor gy = from(grad_out, "grad of the output"), gc = from.parameter(grad_conv, "grad of conv_state"),
               gs = from.parameter(grad_ssm, "grad of ssm_state");
  std::shared_ptr<MixerRun> run = find_run(borrow(number, "run").data<std::int64_t>()[0]);
  const bool again = run == nullptr || run->played.exchange(true);
  if (again) run = new_run();
  run_on(in.x.device(), [&](Context& ctx) {
    if (again) forward_into(*run, ctx, in, wanted, gc.defined() || gs.defined());
    // gy, gc and gs stay here while the tape plays: what has a second owner is not written to.
    run->out.set_grad(gy);
    if (gc.defined()) run->last.conv.set_grad(gc);
    if (gs.defined()) run->last.ssm.set_grad(gs);
    run->tape.backward_from_grads(ctx);
  });
  nb::list grads;
  for (const Var* var : {&run->x, &run->conv_in, &run->ssm_in}) grads.append(give(var->gradient().take()));
  for (std::size_t i = 0; i < kWeights; ++i) {
    Tensor grad = run->vars[i].gradient().take();
    if (i == kConv && grad.defined()) grad = grad.contiguous().unsqueeze(1);
    grads.append(give(grad));
  }
  return grads;
}

// One token: x (b,1,m) -> (b,1,m). conv_state (b,d,k), the last k raw inputs as the published cache has them, and
// ssm_state (b,d,n) are updated in place.
nb::object mixer_step(nb::handle x, nb::tuple weights, nb::handle conv_state, nb::handle ssm_state,
                      std::optional<double> norm_eps) {
  const Inputs in = borrow_inputs(x, weights, nb::none(), nb::none(), nb::none(), nb::none(), false, norm_eps);
  const Tensor window = borrow_writable(conv_state, "conv_state"), ssm = borrow_writable(ssm_state, "ssm_state");
  const BorrowedMamba borrowed(in);
  const std::int64_t b = in.x.rank() == 3 ? in.x.size(0) : 0, k = borrowed.mixer.config().d_conv;
  const Shape expected{b, borrowed.mixer.config().d_inner, k};
  if (in.x.rank() != 3 || in.x.size(1) != 1) {
    throw Error(ErrorCode::kInvalidArgument, "mamba",
                "hidden_states of a step: expected (b,1,d_model), got " + in.x.shape().to_string());
  }
  if (!(window.shape() == expected)) {
    throw Error(ErrorCode::kInvalidArgument, "mamba",
                "conv_state: expected " + expected.to_string() + ", got " + window.shape().to_string());
  }
  Tensor y;
  run_on(in.x.device(), [&](Context& ctx) {
    const Tensor kept = window.slice(2, 1, k), second = k > 1 ? kept.slice(2, 0, 1).clone() : Tensor{};
    y = borrowed.mixer.step(ctx, in.x, {kept, ssm});
    if (k > 1) {
      window.slice(2, 0, 1).copy_from(second);
    } else {  // no window to keep, but the cache shows the raw input
      const Tensor xz = ops::linear_forward(ctx, {in.x, in.weights[kInProj], in.weights[kInBias]});
      window.copy_from(xz.slice(2, 0, expected[1]).transpose(1, 2));
    }
  });
  return give(y);
}

nb::dict config_dict(const ModelConfig& config) {
  nb::dict d;
  d["d_model"] = config.d_model;
  d["n_layer"] = config.n_layer;
  d["vocab_size"] = config.vocab_size;
  d["pad_vocab_size_multiple"] = config.pad_vocab_size_multiple;
  d["rms_norm"] = config.norm == NormKind::kRms;
  d["norm_epsilon"] = config.norm_eps;
  d["residual_in_fp32"] = config.residual_in_fp32;
  d["tie_embeddings"] = config.tie_embeddings;
  d["d_state"] = config.mixer.d_state;
  d["d_conv"] = config.mixer.d_conv;
  d["d_inner"] = config.mixer.d_inner;
  d["dt_rank"] = config.mixer.dt_rank;
  d["conv_bias"] = config.mixer.conv_bias;
  d["bias"] = config.mixer.bias;
  d["norm_dt_B_C_eps"] = nb::none();
  if (config.mixer.norm_dt_B_C) d["norm_dt_B_C_eps"] = config.mixer.norm_dt_B_C_eps;
  d["bidirectional"] = config.bidirectional;
  return d;
}

// (config, {name: coluber.Array}) of a folder in any layout that Model::load reads.
nb::tuple read_checkpoint(const std::string& path) {
  Model model;
  {
    const nb::gil_scoped_release released;
    model = Model::load(path);
  }
  nb::dict tensors;
  for (const Parameter& parameter : model.parameters())
    tensors[parameter.name.c_str()] = array_of(parameter.var.value());
  return nb::make_tuple(config_dict(model.config()), tensors);
}

}  // namespace

void bind_torch_mixer(nb::module_& m) {
  def_positional(m, "mixer_forward", &mixer_forward);
  def_positional(m, "mixer_backward", &mixer_backward);
  def_positional(m, "mixer_step", &mixer_step);
  m.def("read_checkpoint", &read_checkpoint, nb::arg("path"));
}

}  // namespace coluber::python
