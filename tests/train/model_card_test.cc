#include "train/model_card.h"

#include <gtest/gtest.h>

namespace coluber {
namespace {

ModelCard small_card() {
  ModelCard card;
  card.name = "verses";
  card.rows = {{"Data", "a|b.txt"}};
  card.steps = 12;
  card.tokens = 34567;
  card.has_train = true;
  card.train_loss = 1.25;
  return card;
}

std::string written(const ModelCard& card) {
  ModelConfig config;
  config.d_model = 16;
  config.n_layer = 2;
  config.vocab_size = 40;
  return write_model_card(card, Model::create(config, 1), {});
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ModelCard, SaysWhatTheModelIsAndHowItWasMade) {
  const std::string text = written(small_card());
  for (const char* part : {"# verses\n", "| Layers | 2 |", "| Data | a\\|b.txt |", "| Steps | 12 |", "34567 (35 k)",
                           "1.2500 nats per token", "loss.svg", "coluber generate"}) {
    EXPECT_TRUE(has(text, part)) << part << "\n" << text;
  }
  EXPECT_FALSE(has(text, "Held-out"));
  EXPECT_FALSE(has(text, "stopped"));
}

TEST(ModelCard, OfATrainingWithoutAStepTellsNoLoss) {
  ModelCard card = small_card();
  card.has_train = false;
  EXPECT_FALSE(has(written(card), "nats per token"));
}

TEST(ModelCard, TellsHeldOutLossInEveryUnitThatIsKnown) {
  ModelCard card = small_card();
  card.has_heldout = true;
  card.heldout_loss = 2;
  card.finished = false;
  EXPECT_TRUE(has(written(card), "2.0000 nats per token, perplexity 7.39"));
  EXPECT_FALSE(has(written(card), "bits per byte"));
  EXPECT_TRUE(has(written(card), "12, stopped before the end"));
  card.bytes_per_token = 4;
  EXPECT_TRUE(has(written(card), "| Held-out bits per byte | 0.721 |")) << written(card);  // 2 / ln 2 / 4
}

}  // namespace
}  // namespace coluber
