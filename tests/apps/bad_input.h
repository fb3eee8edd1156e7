// Bad input through the program: a table that every command adds to.
//
// A row runs `coluber ARGUMENTS < INPUT` and says which words the sentence must have. The runner (bad_input_test.cc)
// asserts of every row: exit code 1 or 2, and that of the row where it names one; exactly one line on stderr that
// begins with "coluber: ", has all the words and is no longer than a few lines of a terminal; with --json an object
// with the error on stdout, else nothing there; no signal; and that none of the files in `absent` came to be.
//
// To add rows: a function `std::vector<BadInput> bad_NAME(const World&)` in bad_NAME.cc, which makes the files that it
// needs in the World's folder, and its name here, in kBadInput (bad_input_test.cc) and in CMakeLists.txt.
#pragma once

#include <string>
#include <vector>

#include "tests/apps/world.h"

namespace coluber::testing {

struct BadInput {
  std::string name;
  std::vector<std::string> arguments;
  std::vector<std::string> words;  // of the sentence, "expected" and "got" among them where something was compared
  int code = 0;                    // 0: 1 or 2
  std::string input = {};          // stdin
  std::string shell = {};          // behind the command, ">/dev/full" for example
  std::vector<std::string> absent = {};
};

std::vector<BadInput> bad_command_line(const World& world);
std::vector<BadInput> bad_convert(const World& world);
std::vector<BadInput> bad_data(const World& world);
std::vector<BadInput> bad_generate(const World& world);
std::vector<BadInput> bad_models(const World& world);
std::vector<BadInput> bad_train(const World& world);

}  // namespace coluber::testing
