#include "selftest/text_cases.h"

#include <filesystem>

#include "core/check.h"
#include "text/tokenizer_goldens.h"

namespace coluber::selftest {

std::vector<CaseResult> text_results(const std::string& path, const CaseResult& base) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  std::vector<CaseResult> results;
  for (const TokenizerGoldenResult& golden :
       check_tokenizer_goldens(path, {folder + "/../tokenizers", folder + "/tokenizers"})) {
    CaseResult& result = results.emplace_back(base);
    result.case_name = golden.case_name;
    if (!golden.unsupported.empty()) {
      result.status = Status::kUnsupported;
      result.reason = join("[", base.op, "] ", golden.unsupported);
    } else if (!golden.passed) {
      result.status = Status::kFail;
      result.worst = {"text", 1, 0};  // equal or not
      result.reason = join("[", base.op, "] ", golden.detail);
    }
  }
  return results;
}

bool is_text_golden(const std::string& file_name) {
  return file_name.rfind("tokenizer_", 0) == 0 || file_name.rfind("stream_", 0) == 0;
}

}  // namespace coluber::selftest
