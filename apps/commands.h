// The subcommands, one file each.
#pragma once

#include "apps/cli.h"

namespace coluber::apps {

void register_convert(CLI::App& root, Exit& exit);
void register_eval(CLI::App& root, Exit& exit);
void register_generate(CLI::App& root, Exit& exit);
void register_induction(CLI::App& root, Exit& exit);
void register_info(CLI::App& root, Exit& exit);
void register_bench(CLI::App& root, Exit& exit);
void register_selftest(CLI::App& root, Exit& exit);
void register_tokenizer(CLI::App& root, Exit& exit);
void register_train(CLI::App& root, Exit& exit);

}  // namespace coluber::apps
