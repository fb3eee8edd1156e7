// The files that tests of the program work with: small models, right and wrong, and texts. Made once per process.
#pragma once

#include <functional>
#include <string>

#include "coluber/model.h"
#include "tests/apps/command.h"

namespace coluber::testing {

// Random weights for 256 bytes; `change` may ask for another shape.
inline Model byte_model(const std::function<void(ModelConfig&)>& change = {}) {
  ModelConfig config;
  config.d_model = 16;
  config.n_layer = 2;
  config.vocab_size = 256;
  config.mixer.d_state = 4;
  config.tie_embeddings = false;
  if (change) change(config);
  return Model::create(config, 7);
}

class World {
 public:
  World() {
    byte_model().save(model());
    write_bytes(text(), kText);
  }
  std::string operator/(const std::string& name) const { return folder_ / name; }
  std::string model() const { return folder_ / "model"; }
  std::string text() const { return folder_ / "text.txt"; }

  // A copy of the model under another name, to be spoilt.
  std::string copy(const std::string& name) const {
    std::filesystem::copy(model(), folder_ / name, std::filesystem::copy_options::recursive);
    return folder_ / name;
  }
  std::string file(const std::string& name, const std::string& content) const {
    write_bytes(folder_ / name, content);
    return folder_ / name;
  }

  static constexpr const char* kText =
      "In the beginning was the word, and the word was a byte.\nIt was followed by others.\n";

 private:
  TemporaryFolder folder_;
};

}  // namespace coluber::testing
