#include "tests/fuzz/targets.h"

#include <cstring>
#include <exception>
#include <memory>

#include "coluber/error.h"
#include "coluber/tokenizer.h"
#include "io/model_dir.h"
#include "io/safetensors.h"
#include "io/torch_bin.h"
#include "tests/io/torch_files.h"
#include "tests/text/tokenizer_json.h"

namespace coluber::testing {
namespace {

constexpr std::int64_t kMaxElems = 1 << 20;  // tensors may repeat a small storage endlessly

// Reads every element, or the corners of a tensor that is too large for that.
void touch(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.numel() == 0) continue;
    if (tensor.numel() <= kMaxElems) {
      tensor.clone();
      continue;
    }
    Tensor last = tensor;
    while (last.rank() > 0) last = last.select(0, last.size(0) - 1);
    last.at({});
  }
}

// A block of its own, so that a byte too far is seen.
std::shared_ptr<void> exact_copy(Bytes input) {
  auto* copy = new std::byte[input.size()];
  std::memcpy(copy, input.data(), input.size());
  return {copy, [](void* block) { delete[] static_cast<std::byte*>(block); }};
}

template <class F>
void allow_refusal(F&& f) {
  try {
    f();
  } catch (const Error&) {  // the only exception there is
  }
}

TensorMap parse_owned(Bytes input) {
  if (input.empty()) return parse_torch_bin(input, "fuzz.bin");
  const auto owner = exact_copy(input);
  return parse_torch_bin({static_cast<const std::byte*>(owner.get()), input.size()}, "fuzz.bin", owner);
}

std::string file_of(const std::string& header, const std::string& data) {
  return le(static_cast<std::uint64_t>(header.size())) + header + data;
}

}  // namespace

void fuzz_safetensors(Bytes input) {
  allow_refusal([&] {
    if (input.empty()) {
      SafetensorsFile::parse(input, "fuzz.safetensors");
      return;
    }
    const auto owner = exact_copy(input);
    const Bytes bytes(static_cast<const std::byte*>(owner.get()), input.size());
    touch(SafetensorsFile::parse(bytes, "fuzz.safetensors", owner).tensors());
  });
}

void fuzz_torch_bin(Bytes input) {
  if (input.empty()) return;
  const Bytes rest = input.subspan(1);
  if (input[0] == std::byte{'z'}) {
    allow_refusal([&] { touch(parse_owned(rest)); });
    return;
  }
  const std::string pickle(reinterpret_cast<const char*>(rest.data()), rest.size());
  const std::string archive =
      zip_of({{"m/data.pkl", pickle}, {"m/data/0", six_floats()}, {"m/data/1", std::string(24, '1')}});
  allow_refusal([&] { touch(parse_owned(std::as_bytes(std::span(archive)))); });
}

void fuzz_config_json(Bytes input) {
  const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
  allow_refusal([&] {
    const ModelConfig config = config_from_json(text);
    config_from_json(write_config_json(config, config.layout));  // what was accepted can be written and read again
  });
}

void fuzz_tokenizer_json(Bytes input) {
  const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
  allow_refusal([&] {
    const auto tokenizer = Tokenizer::from_json(text);
    for (const std::string_view sample : {"abc aab  12 <s> a\n\n", "\xC3\xA9 e\xCC\x81 \xE2\x96\x81",
                                          "\xFF"
                                          "a\xE0\x80"}) {
      const std::vector<std::int32_t> ids = tokenizer->encode(sample);
      const std::string bytes = tokenizer->decode_bytes(ids);
      if (tokenizer->lossless() && bytes != sample) std::terminate();
      StreamDecoder decoder(*tokenizer);
      std::string shown;
      for (const std::int32_t id : ids) shown += decoder.feed(id);
      if (shown + decoder.flush() != tokenizer->decode(ids)) std::terminate();
    }
  });
}

Seeds safetensors_seeds() {
  return {
      {"empty", file_of("{}", "")},
      {"metadata", file_of(R"({"__metadata__":{"format":"pt"}})", "")},
      {"two", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                      R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
                      std::string(12, 'x'))},
      {"misaligned", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("b":{"dtype":"F64","shape":[],"data_offsets":[1,9]}})",
                             std::string(9, 'x'))},
      {"zero", file_of(R"({"a":{"dtype":"I64","shape":[0,3],"data_offsets":[0,0]}})", "")},
      {"escapes", file_of(R"({"a\u00e9\"":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}})", "xx")},
      {"hole", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xx")},
      {"large", file_of(R"({"a":{"dtype":"I32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "")},
  };
}

Seeds torch_bin_seeds() {
  TensorSpec strided;
  strided.size = numbers({3, 2});
  strided.stride = numbers({1, 3});
  TensorSpec untyped;
  untyped.storage_class = global("torch.storage", "UntypedStorage");
  untyped.key = "1";
  untyped.count = 24;
  untyped.function = global("torch._utils", "_rebuild_tensor_v3");
  untyped.tail = global("torch", "bfloat16");
  const std::string shared = proto() + ordered_dict() + "q" + std::string(1, '\0') + "(" + text("a") + tensor() +
                             text("b") + tensor(strided) + "u}" + text("_metadata") + ordered_dict() + "sb.";
  const std::string parameter =
      global("torch._utils", "_rebuild_parameter") + tuple(tensor() + "\x88" + ordered_dict()) + "R";
  const std::string memo = proto() + "}q\x01(" + text("w") + "q\x02" + tensor() + "q\x03" + text("v") + "h\x03u.";
  const std::string four =
      proto(4) + "\x95" + le(std::uint64_t{0}) + "}\x94(\x8c\x01w" + global("torch", "float32") + "u.";
  const std::string hostile = proto() + global("os", "system") + tuple(text("true")) + "R.";
  return {
      {"pickle", "p" + state_dict(tensor())},
      {"strided", "p" + state_dict(tensor(strided))},
      {"untyped", "p" + state_dict(tensor(untyped))},
      {"shared", "p" + shared},
      {"parameter", "p" + state_dict(parameter)},
      {"memo", "p" + memo},
      {"protocol4", "p" + four},
      {"hostile", "p" + hostile},
      {"archive", "z" + torch_file(state_dict(tensor()))},
      {"archive64", "z" + zip_of({{"m/data.pkl", state_dict(tensor())}, {"m/data/0", six_floats()}}, 0)},
  };
}

Seeds config_json_seeds() {
  return {
      {"state_spaces", R"({"d_model": 32, "n_layer": 3, "vocab_size": 97, "ssm_cfg": {"d_state": 8, "expand": 1.5},
                           "rms_norm": false, "pad_vocab_size_multiple": 8, "attn_cfg": {"coluber": {"dropout": 0.1}}})"},
      {"mamba", R"({"model_type": "mamba", "hidden_size": 32, "time_step_rank": "auto", "vocab_size": 120,
                    "time_step_limit": [0.0, Infinity], "eos_token_id": [5, 6], "use_bias": true})"},
      {"falcon", R"({"model_type": "falcon_mamba", "hidden_size": 32, "expand": 16, "intermediate_size": 64,
                     "mixer_rms_eps": 1e-6, "time_step_max": {"__float__": "Infinity"}})"},
      {"mamba2", R"({"model_type": "mamba2"})"},
  };
}

Seeds tokenizer_json_seeds() {
  const std::string sentencepiece = R"({"added_tokens": [{"id": 0, "content": "<s>", "special": true, "lstrip": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, {"type": "NFKC"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
    "pre_tokenizer": null, "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<s>", "fuse_unk": true, "byte_fallback": true,
      "vocab": {"<s>": 0, "<0xFF>": 1, "a": 2, "_": 3, "_a": 4}, "merges": [["_", "a"]]}})";
  const std::string steps = R"({"added_tokens": [{"id": 3, "content": "aa", "single_word": true, "rstrip": true}],
    "normalizer": {"type": "Lowercase"}, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Contiguous"},
      {"type": "Split", "pattern": {"String": "a"}, "behavior": "MergedWithNext", "invert": true},
      {"type": "ByteLevel", "add_prefix_space": true}, {"type": "Digits", "individual_digits": true},
      {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "MergedWithPrevious"}]},
    "model": {"ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";
  return {{"small", small_json()}, {"sentencepiece", sentencepiece}, {"steps", steps}};
}

}  // namespace coluber::testing
