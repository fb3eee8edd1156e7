#include "kernels/embedding.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

template <class T>
void embedding_forward(const Stream& stream, const EmbeddingParams<T>&, std::int64_t) {
  refuse_kernel(stream);
}
template <class T>
void embedding_backward(const Stream& stream, const EmbeddingGradParams<T, float>&) {
  refuse_kernel(stream);
}

template void embedding_forward(const Stream&, const EmbeddingParams<float>&, std::int64_t);
template void embedding_forward(const Stream&, const EmbeddingParams<bfloat16>&, std::int64_t);
template void embedding_forward(const Stream&, const EmbeddingParams<float16>&, std::int64_t);
template void embedding_backward(const Stream&, const EmbeddingGradParams<float, float>&);
template void embedding_backward(const Stream&, const EmbeddingGradParams<bfloat16, float>&);
template void embedding_backward(const Stream&, const EmbeddingGradParams<float16, float>&);

}  // namespace coluber::cuda
