#include "core/cuda/graph.h"

#include "core/cuda/check.h"

namespace coluber::cuda {

struct Graph::Impl {
  int device = 0;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;

  explicit Impl(int of) : device(of) {}
  ~Impl() {
    int before = 0;
    cudaGetDevice(&before);
    cudaSetDevice(device);
    cudaDeviceSynchronize();  // it may still run, on any stream
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaSetDevice(before);
  }

  void record(cudaStream_t stream, const std::function<void()>& work) {
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

Graph::Graph(const OwnStream& own, const std::function<void()>& work)
    : impl_(std::make_unique<Impl>(own.stream().device)) {
  keep_memory_of(own.stream());
  const StreamScope scope({DeviceType::kCuda, impl_->device}, own.stream().handle);
  const DeviceScope device(impl_->device);
  impl_->record(handle_of(own.stream()), work);
}

Graph::~Graph() = default;

void Graph::launch() const {
  const int device = impl_->device;
  const DeviceScope scope(device);
  check(cudaGraphLaunch(impl_->executable, handle_of(current_stream(device))), "cudaGraphLaunch");
}

}  // namespace coluber::cuda
