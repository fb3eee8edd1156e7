// tokenizer_*.json and stream_*.json: text to ids, ids to bytes, and what a streaming decoder shows after each token.
#pragma once

#include <string>
#include <vector>

#include "selftest/selftest.h"

namespace coluber::selftest {

// One result for each case of the file, exact: there is no error or bound. The tokenizer that it names is looked for in
// ../tokenizers and tokenizers beside the file. `base` has the file's name and op.
std::vector<CaseResult> text_results(const std::string& path, const CaseResult& base);

// Is a JSON file of this name one of them?
bool is_text_golden(const std::string& file_name);

}  // namespace coluber::selftest
