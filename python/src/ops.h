#pragma once

#include "src/runtime.h"

namespace coluber::python {

void bind_ops(nb::module_& m);

}  // namespace coluber::python
