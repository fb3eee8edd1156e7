#include "train/loss_picture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace coluber {
namespace {

TEST(AxisTicks, AreRoundAndInside) {
  EXPECT_EQ(axis_ticks(0, 3000, 8), (std::vector<double>{0, 500, 1000, 1500, 2000, 2500, 3000}));
  EXPECT_EQ(axis_ticks(1.2, 5.6, 6), (std::vector<double>{2, 3, 4, 5}));
  const std::vector<double> small = axis_ticks(0.1, 0.13, 5);
  ASSERT_GE(small.size(), 3u);
  EXPECT_NEAR(small[1] - small[0], 0.01, 1e-12);
  EXPECT_EQ(axis_ticks(1, 1, 5), std::vector<double>{1});
}

TEST(LossPicture, HasBothCurvesTheirLastValuesAndTheTitle) {
  LossCurves curves;
  curves.title = "a <model> & more";
  for (int i = 1; i <= 5000; ++i) curves.train.push_back({i, 2.0});
  curves.heldout = {{2500, 2.5}, {5000, 2.25}};
  const std::string svg = draw_loss_picture(curves);
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  EXPECT_NE(svg.find("a &lt;model&gt; &amp; more"), std::string::npos);
  EXPECT_NE(svg.find("training 2.000"), std::string::npos);
  EXPECT_NE(svg.find("held-out 2.250"), std::string::npos);
  EXPECT_LT(svg.size(), 60000u);
}

TEST(LossPicture, TakesAnyHistory) {
  EXPECT_NE(draw_loss_picture({}).find("</svg>"), std::string::npos);
  LossCurves curves{"one", {{1, 5.5}}, {}};
  EXPECT_NE(draw_loss_picture(curves).find("</svg>"), std::string::npos);
  curves.train.push_back({2, std::numeric_limits<double>::quiet_NaN()});
  curves.train.push_back({3, std::numeric_limits<double>::infinity()});
  const std::string svg = draw_loss_picture(curves);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

}  // namespace
}  // namespace coluber
