// Texts and files of tokens that cannot be evaluated.
#include <cstring>

#include "tests/apps/bad_input.h"

namespace coluber::testing {
namespace {

// A file of 16-bit tokens as text/token_store.h describes it.
std::string token_file(std::int64_t num_tokens, std::int64_t vocab_size, const std::vector<std::uint16_t>& ids) {
  std::string bytes = "COLUBTOK";
  const auto add = [&bytes](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); };
  add(std::uint32_t{1});
  add(std::uint32_t{2});
  add(num_tokens);
  add(vocab_size);
  for (const std::int64_t rest : {std::int64_t{0}, std::int64_t{0}, std::int64_t{-1}, std::int64_t{0}}) add(rest);
  for (const std::uint16_t id : ids) add(id);
  while (bytes.size() % 8 != 0) bytes += '\0';
  return bytes;
}

}  // namespace

std::vector<BadInput> bad_data(const World& world) {
  const auto eval = [&world](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", "--model", world.model(), "--tokenizer", "bytes"});
    return more;
  };
  const std::string empty = world.file("empty.txt", "");
  const std::string cut = world.file("cut_data.jsonl", "{\"text\": \"whole\"}\n{\"text\": \"cu");
  const std::string other_key = world.file("other.jsonl", "{\"content\": \"a\"}\n");
  const std::string large = world.file("large.bin", token_file(3, 5000, {1, 2, 3}));
  const std::string beyond = world.file("beyond.bin", token_file(3, 200, {1, 2, 250}));
  const std::string torn = world.file("torn.bin", token_file(300, 200, {1, 2, 3}));
  return {
      {"DataNotNamed", eval({}), {"--data", "required"}, 2},
      {"DataMissing", eval({"--data", world / "none.txt"}), {"none.txt"}, 1},
      {"DataIsAFolder", eval({"--data", world.model()}), {"model"}},
      {"DataEmpty", eval({"--data", empty}), {"expected", "got"}},
      {"DataCutJson", eval({"--data", cut}), {"cut_data.jsonl", "2"}, 1},
      {"DataWithoutKey", eval({"--data", other_key}), {"other.jsonl", "text"}, 1},
      {"DataUnknownSeparator", eval({"--data", world.text(), "--separator", "tabs"}), {"expected", "got", "tabs"}, 2},
      {"DataChunkOfZero", eval({"--data", world.text(), "--chunk", "0"}), {"--chunk: expected", "got '0'"}, 2},
      {"TokensOfALargerVocabulary", eval({"--data", large}), {"expected ids below 256", "got a vocabulary of 5000"}, 2},
      {"TokenBeyondItsVocabulary", eval({"--data", beyond}), {"beyond.bin", "expected", "250"}, 1},
      {"TokensCut", eval({"--data", torn}), {"torn.bin", "expected", "got"}, 1},
  };
}

}  // namespace coluber::testing
