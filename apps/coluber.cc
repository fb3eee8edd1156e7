// The program. Each subcommand lives in a file of its own; this one only puts them together.
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "apps/cli.h"
#include "apps/commands.h"

int main(int argc, char** argv) {
  using namespace coluber::apps;
  CLI::App root("Selective state-space language models (Mamba): train, generate, evaluate", "coluber");
  Exit exit;
  root.set_help_all_flag("--help-all", "Help of every command");
  root.require_subcommand(1);
  root.failure_message([](const CLI::App*, const CLI::Error&) { return std::string(); });
  register_train(root, exit);
  register_generate(root, exit);
  register_eval(root, exit);
  register_info(root, exit);
  register_bench(root, exit);
  register_selftest(root, exit);
  register_induction(root, exit);
  register_tokenizer(root, exit);
  register_convert(root, exit);

  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& help) {
    exit.code = root.exit(help);
  } catch (const CLI::ParseError& error) {
    print_error("usage", describe_parse_error(root, error), false);
    exit.code = kExitUsage;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    print_error("io", std::string("cannot write to standard output: ") + std::strerror(errno), false);
    exit.code = kExitFailure;
  }
  return exit.code;
}
