// The trainer behind coluber.train and coluber.Trainer, which are in python/coluber/training.py.
#pragma once

#include "src/runtime.h"

namespace coluber::python {

void bind_train(nb::module_& m);

}  // namespace coluber::python
