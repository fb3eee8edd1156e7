#include "kernels/reference/embedding.h"

namespace coluber::cpu {

void embedding_forward(ThreadPool&, const EmbeddingParams<float>& p) {
  reference::embedding_forward(p);
}

void embedding_backward(ThreadPool&, Arena&, const EmbeddingGradParams<float>& p) {
  reference::embedding_backward(p);
}

}  // namespace coluber::cpu
