// Work in a forked child.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

namespace coluber::testing {

// Whether f() is true in a child of this process, which a hang of 5 s ends.
template <class F>
bool true_in_child(F&& f) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(5);
    _exit(f() ? 0 : 1);
  }
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace coluber::testing
