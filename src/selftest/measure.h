// Error and bound of every tensor of a case.
//
// error  e = max_i |got_i - expected_i| / max(|expected_i|, 1)
// bound  = kGoldenAgreement (f64 only) + 2^-24 (where the golden itself is stored as f32)
//        + kSigma u sqrt(terms) (1 + condition)
//
// u is the unit roundoff of the working type (2^-53, 2^-24) and `terms` how many roundings in a row stand behind one
// element (Output::terms: the length of its sums, of the scan, of the chain of layers). Rounding errors of random sign
// add up like sqrt(terms) (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019); kSigma = 4 standard deviations. What
// they do to the result is what a relative change of that size in the inputs does: `condition` is how much the exact
// result moves, in units of e, when every input moves by a relative step of 1 with signs at random. It is measured on
// the case itself, in f64 through the reference kernels, linearised, with four sign patterns, and so does not depend on
// the kernel under test. It is what cancellation in sums, growth in the scan and depth of a model cost. Two independent
// implementations of the goldens agree to kGoldenAgreement.
//
// So the bound is a statistical one, not the worst case (which would be u terms (1 + |condition|), hundreds of times
// more). It takes every rounding of the chain for one of the largest; errors found are a thirtieth of it in the middle
// and a sixth at most. What an op means is held to the f64 line, about 1e-12; the f32 lines are about kernels.
#pragma once

#include <string>
#include <vector>

#include "selftest/experiment.h"
#include "selftest/selftest.h"

namespace coluber::selftest {

inline constexpr double kGoldenAgreement = 1e-12;
inline constexpr double kSigma = 4;

// max |got - expected| / max(|expected|, 1); infinity where got is not finite and expected is. Shapes must have the
// same number of elements (a convolution weight is (d,1,k) in files and (d,k) here).
double relative_error(const Tensor& got, const Tensor& expected);

// Runs the case in each arithmetic; `base` has file, op and case name. Throws kUnsupported when the case expects a
// tensor that `experiment` does not give.
CaseResult measure(Context& ctx, const GoldenCase& golden, const Experiment& experiment,
                   const std::vector<Arithmetic>& arithmetics, const CaseResult& base);

}  // namespace coluber::selftest
