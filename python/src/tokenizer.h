// coluber.Tokenizer and coluber.StreamDecoder: text to token ids and back, and learning a vocabulary.
#pragma once

#include <cstdint>
#include <vector>

#include "src/runtime.h"

namespace coluber::python {

// Token ids from an array or sequence of one axis.
std::vector<std::int32_t> id_list_from(nb::handle ids, std::string_view name);

void bind_tokenizer(nb::module_& m);

}  // namespace coluber::python
