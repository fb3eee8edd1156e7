// Uses a little of every layer through the public headers only.
#include <coluber/coluber.h>

#include <cmath>
#include <iostream>

int main() {
  coluber::Context ctx;
  coluber::ModelConfig config;
  config.d_model = 16;
  config.n_layer = 2;
  config.vocab_size = 32;
  const coluber::Model model = coluber::Model::create(config, 1);

  coluber::State state = model.make_state(1);
  const coluber::Tensor ids = coluber::Tensor::of<std::int32_t>({1, 3}, {1, 2, 3});
  coluber::ForwardOptions options;
  options.state = &state;
  const coluber::Tensor logits = model.forward(ctx, ids, options);
  if (logits.size(1) != 3 || !std::isfinite(logits.at({0, 2, 0})) || state.num_tokens() != 3) return 1;

  try {
    model.forward(ctx, coluber::Tensor::of<std::int32_t>({1, 1}, {1000}));
    return 2;
  } catch (const coluber::Error& error) {
    std::cout << "coluber " << COLUBER_VERSION << " on " << coluber::cpu_isa() << ", " << model.num_parameters()
              << " parameters; refused well: " << error.what() << "\n";
  }
  return 0;
}
