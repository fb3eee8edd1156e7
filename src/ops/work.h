// What a call of each op cannot do without, counted from its arguments: the floors of `coluber bench` and of the
// programs in bench/ (kernels/machine.h makes a time of them).
//
// Bytes are those that must be read or written once: inputs, outputs, and what is updated in place twice. Special
// functions (exponentials, logarithms, reciprocals) of a token and channel:
//   selective_scan   a decay for each of n states (and a sine and cosine where A is complex); softplus 2; silu(z) 2;
//                    backward the slope of softplus 1 more
//   causal_conv1d    silu 2
//   norm             silu of the gate 2
//   cross entropy    1 a logit
// Only shapes and dtypes count, so tensors without memory of their own will do (modules/init.h, placeholder).
#pragma once

#include "coluber/ops.h"
#include "kernels/machine.h"

namespace coluber::ops {

// `saved`: whether checkpoints for backward are written. A step's state is read and written.
Work selective_scan_forward_work(const SelectiveScanArgs& args, const SelectiveScanSaved& saved = {});
Work selective_scan_backward_work(const SelectiveScanArgs& args, const SelectiveScanSaved& saved);
Work selective_scan_step_work(const SelectiveScanArgs& args, const Tensor& state);

Work causal_conv1d_forward_work(const CausalConv1dArgs& args);
Work causal_conv1d_backward_work(const CausalConv1dArgs& args);
Work causal_conv1d_step_work(const CausalConv1dArgs& args, const Tensor& state);

// `residual_out`: whether the sum is wanted. backward: args.x is the sum, args.residual undefined.
Work norm_forward_work(const NormArgs& args, bool residual_out);
Work norm_backward_work(const NormArgs& args, bool grad_residual_out);

Work linear_forward_work(const LinearArgs& args);
Work linear_backward_work(const LinearArgs& args);  // gradients of x and of the weight
Work linear_cross_entropy_work(const LinearCrossEntropyArgs& args, bool want_grad);
Work cross_entropy_work(const Tensor& logits, bool want_grad);

// Rows of the table count once, however often they are asked for; ids on the CPU.
Work embedding_forward_work(const Tensor& ids, const Tensor& table, DType out);
Work embedding_backward_work(const Tensor& ids, const Tensor& grad_y, const Tensor& grad_table);

// Of an op on each element of x: so many tensors like x are read or written.
Work elementwise_work(const Tensor& x, double tensors, double exponentials = 0);
Work adamw_work(std::int64_t parameters);

}  // namespace coluber::ops
