// Each subcommand lives in a file of its own; this one only puts them together.
#include "apps/program.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "apps/cli.h"
#include "apps/commands.h"
#include "coluber/version.h"

namespace coluber::apps {

int run_program(int argc, char** argv) {
  reserve_standard_descriptors();
  CLI::App root("Selective state-space language models (Mamba): train, generate, evaluate", "coluber");
  Exit exit;
  root.set_version_flag("--version", "coluber " COLUBER_VERSION, "Print the version and exit");
  root.footer(
      "Examples:\n"
      "  coluber train --data book.txt --out model --max-seconds 300\n"
      "      a model of a text\n"
      "  coluber generate --model model --prompt \"In the beginning\"\n"
      "      and what it writes\n"
      "  coluber train --help\n"
      "      every command has flags and examples of its own\n"
      "Exit codes: 0 ok, 1 failure, 2 usage.");
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
  settle_options(root);
  root.set_help_all_flag("--help-all", "Help of every command");  // last, so that commands do not inherit it

  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& help) {
    exit.code = root.exit(help);
  } catch (const CLI::ParseError& error) {
    const bool json = std::find(argv, argv + argc, std::string_view("--json")) != argv + argc;
    print_error("usage", describe_parse_error(root, error), json);
    exit.code = kExitUsage;
  }
  const bool failed_now = std::fflush(stdout) != 0;
  if (exit.code == kExitOk && (failed_now || std::ferror(stdout) != 0)) {
    const std::string reason = failed_now ? std::string(": ") + std::strerror(errno) : ", some of it is lost";
    print_error("io", "cannot write to standard output" + reason, false);
    exit.code = kExitFailure;
  }
  return exit.code;
}

}  // namespace coluber::apps
