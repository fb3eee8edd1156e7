// What every binding needs: contexts to run in, errors as Python exceptions, Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "coluber/coluber.h"

namespace coluber::python {

namespace nb = nanobind;

// A Context out of a free list, for the length of one call. The last one given back is the next one taken, so a program
// of one thread always gets the same, warm one; n threads that call at once get n.
class ContextLease {
 public:
  explicit ContextLease(Algorithm algorithm = Algorithm::kAuto);
  ~ContextLease();
  ContextLease(const ContextLease&) = delete;
  ContextLease& operator=(const ContextLease&) = delete;
  Context& operator*() const { return *context_; }

 private:
  std::unique_ptr<Context> context_;
  int num_threads_;
};

// "auto", "reference", "cpu"; anything else is refused.
Algorithm algorithm_from(std::string_view name);

// Takes the GIL, looks for Ctrl-C and other signals, and throws what their Python handlers raised. Called between the
// steps of long work, with the GIL released.
void check_signals();

void bind_runtime(nb::module_& m);

}  // namespace coluber::python
