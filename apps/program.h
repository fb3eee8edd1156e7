// The command line program as a function, for main() and for `python -m coluber`.
#pragma once

namespace coluber::apps {

// Runs the command that argv names; returns the exit code: 0 ok, 1 failure, 2 usage.
int run_program(int argc, char** argv);

}  // namespace coluber::apps
