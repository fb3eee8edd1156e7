// A picture of the loss as SVG: training loss (each step faint, its running mean bold) and held-out loss over steps.
//
// Written beside the model at every checkpoint; opens in any browser. Thousands of steps are thinned to the width of
// the picture, so a file stays below about 60 kB.
#pragma once

#include <string>
#include <vector>

#include "coluber/train.h"

namespace coluber {

struct LossCurves {
  std::string title;
  std::vector<LossPoint> train, heldout;  // steps ascending
};

std::string draw_loss_picture(const LossCurves& curves);

// Round numbers that cover [low, high] in about `count` steps: 1, 2 or 5 times a power of ten apart.
std::vector<double> axis_ticks(double low, double high, int count);

}  // namespace coluber
