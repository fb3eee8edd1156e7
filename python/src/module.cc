// coluber._native: the library for Python. Each part of the public interface is bound in a file of its own.
#include "src/arrays.h"
#include "src/ops.h"
#include "src/program.h"
#include "src/runtime.h"

NB_MODULE(_native, m) {
  using namespace coluber::python;
  m.doc() = "Coluber's native module. Use the package: `import coluber`.";
  bind_runtime(m);
  bind_arrays(m);
  bind_ops(m);
  bind_program(m);
}
