// cross_entropy and linear_cross_entropy: checks and tiling.
//
// The fused op never holds more than one tile of logits: kTileElems numbers, whatever the number of tokens. Per tile:
// logits = x W^T + bias, rows turned into losses and, in place, into d loss / d logits, then the two products that give
// grad_x and add to grad_weight. Tiles follow from the shape alone and are taken in order, so sums have one order.
#include <algorithm>
#include <vector>

#include "coluber/ops.h"
#include "core/threads.h"
#include "kernels/loss.h"
#include "kernels/reference/loss.h"
#include "ops/ids.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

// 32 MiB of f32 logits. A larger tile saves passes over the head's weights, a smaller one stays in the cache.
constexpr std::int64_t kTileElems = 8 << 20;
constexpr std::int64_t kMinTileTokens = 64, kMaxTileTokens = 1024;
constexpr std::int64_t kRowsPerTask = 16;

// On a GPU a tile must fill the device, and adding to the head's gradient takes as long as 500 tokens: 256 MiB of f32
// logits, or up to 512 MiB for an eighth of the tokens, and all tiles of one size.
constexpr std::int64_t kDeviceTileElems = 64 << 20, kMaxDeviceTileTokens = 8192;

std::int64_t tile_tokens(std::int64_t tokens, std::int64_t v, Device device) {
  constexpr std::int64_t kUnit = 64;
  auto most = [&](std::int64_t elems, std::int64_t limit) {
    return std::clamp(elems / std::max<std::int64_t>(v, 1) / kUnit * kUnit, kMinTileTokens, limit);
  };
  if (device.is_cpu()) return most(kTileElems, kMaxTileTokens);
  const std::int64_t least = most(kDeviceTileElems, kMaxDeviceTileTokens);
  const std::int64_t limit = std::max(least, std::min(tokens / 8, most(2 * kDeviceTileElems, kMaxDeviceTileTokens)));
  const std::int64_t tiles = (tokens + limit - 1) / limit;
  return tiles == 0 ? limit : ((tokens + tiles - 1) / tiles + kUnit - 1) / kUnit * kUnit;
}

// (rows,v), rows 16 bytes apart.
Tensor aligned_rows(std::int64_t rows, std::int64_t v, DType dtype, Device device) {
  const std::int64_t per_piece = 16 / dtype_size(dtype), columns = (v + per_piece - 1) / per_piece * per_piece;
  return Tensor::empty({rows, columns}, dtype, device).slice(1, 0, v);
}

// Numbers of fewer bits in the memory of `wide`'s rows, each of which begins where its row does.
Tensor narrowed_in_place(const Tensor& wide, DType dtype) {
  const std::int64_t rows = wide.size(0), stride = wide.stride(0) * dtype_size(wide.dtype()) / dtype_size(dtype);
  return Tensor::from_memory(wide.raw(), {rows, stride}, dtype, wide.memory(), wide.device()).slice(1, 0, wide.size(1));
}

// Contiguous targets on `device`, every one of them -1 or in the vocabulary; the number that count goes to `counted`.
Tensor checked_targets(std::string_view op, const Tensor& targets, std::int64_t tokens, std::int64_t v, Device device,
                       std::int64_t* counted) {
  check_shape(op, "targets", targets, {tokens});
  check_dtype(op, "targets", targets, DType::kI32);
  const Tensor flat = targets.to(kCpuDevice).contiguous();
  *counted = check_targets(op, flat, v);
  return targets.device() == device ? targets.contiguous() : flat.to(device);
}

// The same of linear_cross_entropy, which with a token_weight on a GPU does not wait to look at them.
Tensor fused_targets(std::string_view op, const LinearCrossEntropyArgs& args, std::int64_t* counted) {
  const std::int64_t tokens = args.x.size(0), v = args.weight.size(0);
  const Device device = args.x.device();
  if (!args.token_weight.defined()) return checked_targets(op, args.targets, tokens, v, device, counted);
  check_shape(op, "token_weight", args.token_weight, {});
  check_dtype(op, "token_weight", args.token_weight, DType::kF64);
  check_device(op, "token_weight", args.token_weight, device);
  if (device.is_cpu()) return checked_targets(op, args.targets, tokens, v, device, counted);
  check_shape(op, "targets", args.targets, {tokens});
  check_dtype(op, "targets", args.targets, DType::kI32);
  check_device(op, "targets", args.targets, device);
  return args.targets.contiguous();
}

template <class T, class G = T>
CrossEntropyRowsParams<T, G> rows_params(const Tensor& logits, const std::int32_t* targets, double* loss,
                                         const Tensor& grad, double grad_scale) {
  CrossEntropyRowsParams<T, G> p;
  p.rows = logits.size(0);
  p.v = logits.size(1);
  p.logits = logits.data<T>();
  p.ld = logits.stride(0);
  p.targets = targets;
  p.loss = loss;
  if (grad.defined()) {
    p.grad = grad.data<G>();
    p.ldg = grad.stride(0);
  }
  p.grad_scale = grad_scale;
  return p;
}

// Losses (rows) and, when `grad` is defined, gradients of all rows of a matrix of logits. On a GPU those of f32 may be
// asked for in 16 bits.
void run_rows(Context& ctx, const Tensor& logits, const std::int32_t* targets, double* loss, const Tensor& grad,
              double grad_scale, const Tensor& grad_scale_at = {}) {
  if (!logits.device().is_cpu()) {
    const cuda::Stream stream = cuda::current_stream(logits.device().index);
    const DType grad_dtype = grad.defined() ? grad.dtype() : logits.dtype();
    auto run = [&](auto params) {
      if (grad_scale_at.defined()) params.grad_scale_at = grad_scale_at.data<double>();
      cuda::cross_entropy_rows(stream, params);
    };
    with_storage(grad_dtype, [&](auto storage) {
      using G = decltype(storage);
      if (grad_dtype == logits.dtype())
        run(rows_params<G>(logits, targets, loss, grad, grad_scale));
      else
        run(rows_params<float, G>(logits, targets, loss, grad, grad_scale));
    });
    return;
  }
  if (logits.dtype() == DType::kF64) {
    return reference::cross_entropy_rows(rows_params<double>(logits, targets, loss, grad, grad_scale));
  }
  const auto all = rows_params<float>(logits, targets, loss, grad, grad_scale);
  if (takes_reference(ctx, DType::kF32)) return reference::cross_entropy_rows(all);
  ctx.threads().run((all.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    CrossEntropyRowsParams<float> p = all;
    const std::int64_t first = task * kRowsPerTask;
    p.rows = std::min(kRowsPerTask, all.rows - first);
    p.logits += first * p.ld;
    p.targets += first;
    if (p.loss != nullptr) p.loss += first;
    if (p.grad != nullptr) p.grad += first * p.ldg;
    cpu::cross_entropy_rows(p);
  });
}

double mean_of(const Tensor& losses, std::int64_t counted) {
  const Tensor on_cpu = losses.to(kCpuDevice);
  const double* loss = on_cpu.data<double>();
  double sum = 0;
  for (std::int64_t i = 0; i < on_cpu.numel(); ++i) sum += loss[i];
  return counted == 0 ? 0 : sum / static_cast<double>(counted);
}

Tensor checked_logits(const Tensor& logits) {
  check_shape("cross_entropy", "logits", logits, {-1, -1});
  check_storage("cross_entropy", "logits", logits);
  return as_matrix(logits);
}

// The mean of `losses`, or with a weight of tokens their sum times that; on a GPU then out.device_loss.
void set_loss(const Tensor& losses, const Tensor& token_weight, LinearCrossEntropyOut& out) {
  if (!token_weight.defined()) {
    out.loss = mean_of(losses, out.num_tokens);
  } else if (losses.device().is_cpu()) {
    out.loss = mean_of(losses, 1) * *token_weight.data<double>();
  } else {
    out.device_loss = Tensor::empty({}, DType::kF64, losses.device());
    cuda::cross_entropy_total(cuda::current_stream(losses.device().index), losses.data<double>(), losses.numel(),
                              token_weight.data<double>(), out.device_loss.data<double>());
  }
}

}  // namespace

std::int64_t check_targets(std::string_view op, const Tensor& targets, std::int64_t v) {
  const std::int32_t* ids = targets.data<std::int32_t>();
  std::int64_t counted = 0;
  for (std::int64_t i = 0; i < targets.numel(); ++i) {
    if (ids[i] < -1 || ids[i] >= v) {
      refuse_value(ErrorCode::kInvalidArgument, op, join("targets[", i, "]"),
                   join("-1 (ignored) or 0 to ", v - 1, " for a vocabulary of ", v), std::to_string(ids[i]));
    }
    counted += ids[i] >= 0 ? 1 : 0;
  }
  return counted;
}

double cross_entropy_forward(Context& ctx, const Tensor& logits, const Tensor& targets) {
  const Tensor rows = checked_logits(logits);
  std::int64_t counted = 0;
  const Tensor ids = checked_targets("cross_entropy", targets, rows.size(0), rows.size(1), rows.device(), &counted);
  const Tensor losses = Tensor::empty({rows.size(0)}, DType::kF64, rows.device());
  run_rows(ctx, rows, ids.data<std::int32_t>(), losses.data<double>(), {}, 0);
  return mean_of(losses, counted);
}

Tensor cross_entropy_backward(Context& ctx, const Tensor& logits, const Tensor& targets, double grad_loss) {
  const Tensor rows = checked_logits(logits);
  std::int64_t counted = 0;
  const Tensor ids = checked_targets("cross_entropy", targets, rows.size(0), rows.size(1), rows.device(), &counted);
  const Tensor grad = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
  run_rows(ctx, rows, ids.data<std::int32_t>(), nullptr, grad,
           counted == 0 ? 0 : grad_loss / static_cast<double>(counted));
  return grad;
}

LinearCrossEntropyOut linear_cross_entropy(Context& ctx, const LinearCrossEntropyArgs& args, bool want_grad,
                                           bool want_token_loss) {
  constexpr std::string_view kOp = "linear_cross_entropy";
  check_shape(kOp, "x", args.x, {-1, -1});
  check_linear(kOp, args.x, args.weight, args.bias, args.compute);
  check_packed(kOp, args.packed, args.weight);
  check_algorithm(kOp, ctx, args.x.device());
  const DType dtype = args.x.dtype(), parameter = parameter_dtype(args.x);
  const Device device = args.x.device();
  const std::int64_t tokens = args.x.size(0), m = args.x.size(1), v = args.weight.size(0);
  LinearCrossEntropyOut out;
  const Tensor ids = fused_targets(kOp, args, &out.num_tokens);
  const Tensor x = as_matrix(args.x), bias = bias_like(args.bias, args.x);
  // On a GPU gradients of logits are rounded as they are written.
  const DType factor = device.is_cpu() ? parameter : dtype_size(dtype) == 2 ? dtype : args.compute;
  const Tensor weight = as_matrix(product_weight(x, args.weight, args.compute));
  if (want_grad) {
    out.grad_x = Tensor::empty({tokens, m}, dtype, device);
    out.grad_weight = Tensor::empty({v, m}, parameter, device);
    if (bias.defined()) out.grad_bias = Tensor::empty({v}, parameter, device);
    if (tokens == 0 || v == 0) {  // there is no tile to write them
      out.grad_x.fill(0);
      out.grad_weight.fill(0);
      if (bias.defined()) out.grad_bias.fill(0);
    }
  }
  const Tensor losses = Tensor::zeros({tokens}, DType::kF64, device);
  double scale = out.num_tokens == 0 ? 0 : 1 / static_cast<double>(out.num_tokens);
  if (args.token_weight.defined() && device.is_cpu()) scale = *args.token_weight.data<double>();
  const Tensor scale_at = device.is_cpu() ? Tensor() : args.token_weight;
  const std::int64_t step = tile_tokens(tokens, v, device);
  const Tensor tile = v == 0 ? Tensor() : aligned_rows(std::min(step, tokens), v, parameter, device);
  Tensor grad_tile;  // in the memory of the logits
  if (want_grad && v > 0) grad_tile = factor == parameter ? tile : narrowed_in_place(tile, factor);
  for (std::int64_t begin = 0; begin < tokens && v > 0; begin += step) {
    const std::int64_t end = std::min(begin + step, tokens);
    const Tensor logits = tile.slice(0, 0, end - begin), x_tile = x.slice(0, begin, end);
    const Tensor grad = want_grad ? grad_tile.slice(0, 0, end - begin) : Tensor();
    matrix_forward(ctx, x_tile, weight, bias, args.compute, logits, args.packed);
    run_rows(ctx, logits, ids.data<std::int32_t>() + begin, losses.data<double>() + begin, grad, scale, scale_at);
    if (!want_grad) continue;
    if (bias.defined()) matrix_grad_bias(ctx, grad, out.grad_bias, begin > 0);
    matrix_grad_x(ctx, grad, weight, args.compute, out.grad_x.slice(0, begin, end));
    matrix_grad_weight(ctx, grad, x_tile, args.compute, out.grad_weight, begin > 0);
  }
  set_loss(losses, args.token_weight, out);
  if (want_token_loss) out.token_loss = losses.to(kCpuDevice);
  return out;
}

}  // namespace coluber::ops
