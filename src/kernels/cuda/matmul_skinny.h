// Products of a few rows with the transpose of a matrix of weights, and what is left around the library's products.
#pragma once

#include "kernels/matmul.h"

namespace coluber::cuda {

// Up to kSkinnyRows rows of a, b transposed and nothing to add to: a decoded token.
bool takes_skinny(const MatmulParams& p);
void matmul_skinny(const Stream& stream, const MatmulParams& p);

void add_bias(const Stream& stream, const Matrix& c, const float* bias);
// A product over no terms: c is the bias, or zero; unchanged when it is added to.
void fill_rows(const Stream& stream, const MatmulParams& p);

}  // namespace coluber::cuda
