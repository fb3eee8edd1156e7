// A tokenizer.json small enough to change in a test.
#pragma once

#include <string>

#include "core/json.h"

namespace coluber::testing {

// a 0, b 1, c 2, space 3, ab 4, abc 5; merges a b, ab c; GPT-2's pattern.
inline std::string small_json() {
  return R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "abc": 5},
              "merges": ["a b", ["ab", "c"]]}})";
}

}  // namespace coluber::testing
