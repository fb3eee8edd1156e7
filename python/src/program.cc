// The command line program, for `python -m coluber` and the script `coluber`.
#include "src/program.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <csignal>
#include <string>
#include <vector>

#include "apps/program.h"

namespace coluber::python {
namespace {

int run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // The program has handlers of its own where it wants them; Python's would wait for the interpreter to go on.
  const auto before = std::signal(SIGINT, SIG_DFL);
  int code = 0;
  {
    const nb::gil_scoped_release released;
    code = apps::run_program(static_cast<int>(arguments.size()), argv.data());
  }
  std::signal(SIGINT, before);
  return code;
}

}  // namespace

void bind_program(nb::module_& m) {
  m.def("run_program", &run_program, nb::arg("arguments"),
        "Runs the command line program with these words, the first its name; returns its exit code.");
}

}  // namespace coluber::python
