// What a config.json says, and which of it was said rather than assumed.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "coluber/config.h"

namespace coluber {

struct ConfigReading {
  ModelConfig config;  // not resolved: d_inner and dt_rank are 0 where the file gives no number
  // Names of our fields ("d_state") to keys of the file ("ssm_cfg.d_state"), for what the file states.
  std::map<std::string, std::string> stated;
  std::vector<std::string> warnings;
};

ConfigReading read_config_json(std::string_view text, std::string_view name);

// config.resolve(), with refusals that name the file.
void resolve_config(ModelConfig& config, std::string_view name);

}  // namespace coluber
