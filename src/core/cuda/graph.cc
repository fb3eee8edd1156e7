#include "core/cuda/graph.h"

#include "core/cuda/check.h"

namespace coluber::cuda {

struct Graph::Impl {
  Stream own;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;

  explicit Impl(int device) {
    const DeviceScope scope(device);
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    own = {device, stream};
    keep_memory_of(own);
  }

  ~Impl() {
    int before = 0;
    cudaGetDevice(&before);
    cudaSetDevice(own.device);
    cudaDeviceSynchronize();  // it may still run, on any stream
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    drop_memory_of(own);
    cudaStreamDestroy(handle_of(own));
    cudaSetDevice(before);
  }

  void record(const std::function<void()>& work) {
    const cudaStream_t stream = handle_of(own);
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  }
};

Graph::Graph(int device, const std::function<void()>& warm_up, const std::function<void()>& work) {
  require_device(device);
  synchronize(device);  // what the work reads may still be on its way on the current stream
  impl_ = std::make_unique<Impl>(device);
  const StreamScope stream({DeviceType::kCuda, device}, impl_->own.handle);
  warm_up();
  synchronize(device);
  impl_->record(work);
}

Graph::~Graph() = default;

void Graph::launch() const {
  const int device = impl_->own.device;
  const DeviceScope scope(device);
  check(cudaGraphLaunch(impl_->executable, handle_of(current_stream(device))), "cudaGraphLaunch");
}

}  // namespace coluber::cuda
