// What is in files lives in core, where text finds it too.
#pragma once

#include "core/content.h"  // IWYU pragma: export
