// What each fuzz target does with its input. Anything but a result or a coluber::Error is a finding, as is whatever the
// sanitizers see.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace coluber::testing {

using Bytes = std::span<const std::byte>;
using Seeds = std::vector<std::pair<std::string, std::string>>;  // names and bytes

void fuzz_safetensors(Bytes input);

// First byte 'z': the rest is an archive. Else the rest is the pickle of an archive with two storages, whose checksum
// is right, so that mutations of the pickle reach the machine that runs it.
void fuzz_torch_bin(Bytes input);

void fuzz_config_json(Bytes input);

// What is accepted encodes a few texts and decodes what came out of them.
void fuzz_tokenizer_json(Bytes input);

// Small inputs that are right, or nearly: what the fuzzer starts from and what the replay test runs.
Seeds safetensors_seeds();
Seeds torch_bin_seeds();
Seeds config_json_seeds();
Seeds tokenizer_json_seeds();

}  // namespace coluber::testing
