// AtomicFile lives in core, where text finds it too.
#pragma once

#include "core/atomic_file.h"  // IWYU pragma: export
