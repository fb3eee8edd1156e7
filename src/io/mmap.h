// MappedFile lives in core, where text finds it too.
#pragma once

#include "core/mapped_file.h"  // IWYU pragma: export
