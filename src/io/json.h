// JSON lives in core, where text finds it too.
#pragma once

#include "core/json.h"  // IWYU pragma: export
