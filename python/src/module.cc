// coluber._native: the library for Python. Each part of the public interface is bound in a file of its own.
#include "src/arrays.h"
#include "src/generate.h"
#include "src/model.h"
#include "src/ops.h"
#include "src/program.h"
#include "src/runtime.h"
#include "src/state.h"
#include "src/tokenizer.h"
#include "src/torch_tensors.h"
#include "src/train.h"

NB_MODULE(_native, m) {
  using namespace coluber::python;
  m.doc() = "Coluber's native module. Use the package: `import coluber`.";
  bind_runtime(m);
  bind_arrays(m);
  bind_ops(m);
  bind_state(m);
  bind_tokenizer(m);
  bind_model(m);
  bind_generate(m);
  bind_train(m);
  bind_program(m);
  nb::module_ torch = m.def_submodule("torch", "What coluber.torch is made of.");
  bind_torch_tensors(torch);
  bind_torch_ops(torch);
  bind_torch_mixer(torch);
}
