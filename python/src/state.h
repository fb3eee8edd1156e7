// coluber.State: what a model remembers, as a Python value.
#pragma once

#include "src/runtime.h"

namespace coluber::python {

void bind_state(nb::module_& m);

}  // namespace coluber::python
