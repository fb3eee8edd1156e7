#pragma once

#include "src/runtime.h"

namespace coluber::python {

void bind_program(nb::module_& m);

}  // namespace coluber::python
