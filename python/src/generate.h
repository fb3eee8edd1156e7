// coluber.Session and the stream of pieces behind Model.generate.
#pragma once

#include "src/runtime.h"

namespace coluber::python {

void bind_generate(nb::module_& m);

}  // namespace coluber::python
