// Texts and files of tokens that cannot be evaluated.
#include "tests/apps/bad_input.h"
#include "tests/support/token_files.h"

namespace coluber::testing {
namespace {

// Three tokens and nothing said about them.
TokenFileFields three_tokens(std::int64_t vocab_size, std::vector<std::uint32_t> ids) {
  TokenFileFields fields;
  fields.num_tokens = 3;
  fields.vocab_size = vocab_size;
  fields.fingerprint = 0;
  fields.num_documents = 0;
  fields.eos_id = -1;
  fields.text_bytes = 0;
  fields.ids = std::move(ids);
  fields.starts.clear();
  return fields;
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
  const std::string one = world.file("one.txt", "a");
  const std::string large = world.file("large.bin", token_file(three_tokens(5000, {1, 2, 3})));
  const std::string beyond = world.file("beyond.bin", token_file(three_tokens(200, {1, 2, 250})));
  TokenFileFields fields = three_tokens(200, {1, 2, 3});
  fields.num_tokens = 300;
  const std::string torn = world.file("torn.bin", token_file(fields));
  fields = three_tokens(200, {1, 2, 3});
  fields.fingerprint = 77;
  const std::string foreign = world.file("foreign.bin", token_file(fields));
  return {
      {"DataNotNamed", eval({}), {"--data", "required"}, 2},
      {"DataMissing", eval({"--data", world / "none.txt"}), {"none.txt"}, 1},
      {"DataIsAFolder", eval({"--data", world.model()}), {"model"}},
      {"DataEmpty", eval({"--data", empty}), {"expected", "got"}},
      {"DataOfOneToken", eval({"--data", one}), {"expected a document of 2 tokens or more", "got 1"}, 2},
      {"TokensOfAnotherTokenizer", eval({"--data", foreign}), {"foreign.bin", "got those of another one"}, 2},
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
