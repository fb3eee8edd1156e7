#include "train/model_card.h"

#include <cmath>
#include <cstdio>
#include <numbers>
#include <sstream>

#include "core/check.h"

namespace coluber {
namespace {

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string short_count(double count) {  // "1.8 M"
  for (const auto& [size, unit] : {std::pair(1e9, " G"), std::pair(1e6, " M"), std::pair(1e3, " k")}) {
    if (count >= size) return number(count / size, count < 10 * size ? 1 : 0) + unit;
  }
  return number(count, 0);
}

std::string duration(double seconds) {
  if (seconds < 120) return number(seconds, 0) + " s";
  if (seconds < 7200) return number(seconds / 60, 0) + " min";
  return number(seconds / 3600, 1) + " h";
}

// What a cell of a table may hold.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|')
      out += "\\|";
    else
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

class Table {
 public:
  explicit Table(std::ostream& out) : out_(out) { out_ << "| | |\n|---|---|\n"; }
  void row(const std::string& what, const std::string& value) {
    out_ << "| " << cell(what) << " | " << cell(value) << " |\n";
  }

 private:
  std::ostream& out_;
};

void write_shape(std::ostream& out, const Model& model) {
  const ModelConfig& config = model.config();
  out << "## Model\n";
  Table table(out);
  table.row("Architecture",
            join(config.bidirectional ? "bidirectional " : "", "Mamba-1 (selective state spaces, arXiv 2312.00752)"));
  table.row("Parameters",
            join(model.num_parameters(), " (", short_count(static_cast<double>(model.num_parameters())), ")"));
  table.row("Layers", join(config.n_layer));
  table.row("Width (d_model)", join(config.d_model));
  table.row("Channels (d_inner)", join(config.mixer.d_inner));
  table.row("State per channel (d_state)", join(config.mixer.d_state));
  table.row("Vocabulary",
            join(config.vocab_size, ", embedding and head ", config.tie_embeddings ? "tied" : "separate"));
  table.row("State of one sequence", join(model.make_state(1).size_bytes(), " bytes, whatever its length"));
}

void write_training(std::ostream& out, const ModelCard& card, const TrainOptions& options) {
  out << "\n## Training\n";
  Table table(out);
  for (const auto& [what, value] : card.rows) table.row(what, value);
  table.row("Steps", join(card.steps, card.finished ? "" : ", stopped before the end"));
  table.row("Tokens read", join(card.tokens, " (", short_count(static_cast<double>(card.tokens)), ")"));
  table.row("Time", duration(card.seconds));
  table.row("Optimiser", join("AdamW, betas ", options.adamw.beta1, " and ", options.adamw.beta2, ", weight decay ",
                              options.adamw.weight_decay, ", clipped at norm ", options.adamw.clip));
  table.row("Learning rate", join(options.schedule.lr, ", ", schedule_name(options.schedule.kind)));
  table.row("Arithmetic of matrix products", std::string(dtype_name(options.compute)));
}

void write_results(std::ostream& out, const ModelCard& card) {
  out << "\n## Results\n";
  Table table(out);
  if (card.has_train) table.row("Training loss, last steps", number(card.train_loss, 4) + " nats per token");
  if (card.has_heldout) {
    table.row("Held-out loss",
              number(card.heldout_loss, 4) + " nats per token, perplexity " + number(std::exp(card.heldout_loss), 2));
    if (card.bytes_per_token > 0) {
      table.row("Held-out bits per byte", number(card.heldout_loss / std::numbers::ln2 / card.bytes_per_token, 3));
    }
  }
  out << "\n![Loss by step](loss.svg)\n\nEvery step is in `metrics.jsonl`.\n";
}

}  // namespace

std::string write_model_card(const ModelCard& card, const Model& model, const TrainOptions& options) {
  std::ostringstream out;
  out << "# " << cell(card.name.empty() ? "A Mamba language model" : card.name) << "\n\n"
      << "A language model trained with Coluber. It continues text like\n"
         "that which it was trained on, with its errors and biases; what it says is not checked.\n\n";
  write_shape(out, model);
  write_training(out, card, options);
  write_results(out, card);
  out << "\n## Use\n```sh\ncoluber generate --model . --prompt \"...\"\ncoluber eval --model . --data FILE\n```\n";
  return out.str();
}

}  // namespace coluber
