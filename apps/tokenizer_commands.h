// The parts of `coluber tokenizer`: one command for each thing that is done with a vocabulary.
#pragma once

#include <string>

#include "apps/cli.h"

namespace coluber::apps {

void register_tokenizer_train(CLI::App& parent, Exit& exit);
void register_tokenizer_pack(CLI::App& parent, Exit& exit);

void add_tokenizer_option(CLI::App& command, std::string& tokenizer);  // -t, --tokenizer

}  // namespace coluber::apps
