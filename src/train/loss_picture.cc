#include "train/loss_picture.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace coluber {
namespace {

constexpr double kWidth = 860, kHeight = 460;  // pixels
constexpr double kLeft = 64, kRight = 24, kTop = 56, kBottom = 52;
constexpr std::size_t kMaxPoints = 700;  // about one per pixel of the plot
constexpr const char* kTrainColour = "#4269d0";
constexpr const char* kHeldoutColour = "#e4572e";
constexpr const char* kTextColour = "#333";
constexpr const char* kFaintColour = "#e6e6e6";

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}
std::string pixel(double value) {
  return number(value, 1);
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return out;
}

// A tick with no more digits than its distance to the next needs: 0.25, 1500, "20k".
std::string tick_text(double value, double distance) {
  if (distance >= 1000 && value != 0) return number(value / 1000, std::fmod(distance, 1000) == 0 ? 0 : 1) + "k";
  const int digits = distance >= 1 ? 0 : static_cast<int>(std::ceil(-std::log10(distance) - 1e-9));
  return number(value, std::min(digits, 6));
}

std::vector<LossPoint> finite_points(const std::vector<LossPoint>& points) {
  std::vector<LossPoint> out;
  std::copy_if(points.begin(), points.end(), std::back_inserter(out),
               [](const LossPoint& p) { return std::isfinite(p.loss); });
  return out;
}

// Means of neighbours, so that at most kMaxPoints are left.
std::vector<LossPoint> thinned(const std::vector<LossPoint>& points) {
  const std::size_t group = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (group <= 1) return points;
  std::vector<LossPoint> out;
  for (std::size_t begin = 0; begin < points.size(); begin += group) {
    const std::size_t end = std::min(points.size(), begin + group);
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += points[i].loss;
    out.push_back({points[(begin + end - 1) / 2].step, sum / static_cast<double>(end - begin)});
  }
  return out;
}

// Mean over a window around each step: an eightieth of the run to either side, less where the loss still falls fast.
std::vector<LossPoint> smoothed(const std::vector<LossPoint>& points) {
  std::vector<double> sums = {0};  // of the first i points
  for (const LossPoint& point : points) sums.push_back(sums.back() + point.loss);
  std::vector<LossPoint> out;
  const std::size_t n = points.size();
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t half = std::min(n / 80, i / 5), begin = i - half, end = std::min(n, i + half + 1);
    out.push_back({points[i].step, (sums[end] - sums[begin]) / static_cast<double>(end - begin)});
  }
  return out;
}

struct Range {
  double low = 0, high = 1;
};

// Leaves out the highest hundredth of single steps: one spike must not flatten everything else.
Range loss_range(const std::vector<LossPoint>& train, const std::vector<LossPoint>& smooth,
                 const std::vector<LossPoint>& heldout) {
  std::vector<double> raw, must;
  for (const LossPoint& p : train) raw.push_back(p.loss);
  std::sort(raw.begin(), raw.end());
  if (!raw.empty()) must = {raw.front(), raw[(raw.size() - 1) * 99 / 100]};
  for (const LossPoint& p : smooth) must.push_back(p.loss);
  for (const LossPoint& p : heldout) must.push_back(p.loss);
  if (must.empty()) return {};
  const auto [low, high] = std::minmax_element(must.begin(), must.end());
  const double margin = std::max((*high - *low) * 0.05, 1e-3);
  return {std::max(0.0, *low - margin), *high + margin};
}

class Canvas {
 public:
  Canvas(Range steps, Range losses) : steps_(steps), losses_(losses) {}

  double x(double step) const {
    return kLeft + (step - steps_.low) / (steps_.high - steps_.low) * (kWidth - kLeft - kRight);
  }
  double y(double loss) const {
    const double share = (loss - losses_.low) / (losses_.high - losses_.low);
    return kHeight - kBottom - std::clamp(share, 0.0, 1.0) * (kHeight - kTop - kBottom);
  }
  void add(const std::string& element) { body_ += "  " + element + "\n"; }
  void line(double x1, double y1, double x2, double y2, const std::string& colour, double width = 1) {
    add("<line x1=\"" + pixel(x1) + "\" y1=\"" + pixel(y1) + "\" x2=\"" + pixel(x2) + "\" y2=\"" + pixel(y2) +
        "\" stroke=\"" + colour + "\" stroke-width=\"" + pixel(width) + "\"/>");
  }
  void text(double at_x, double at_y, const std::string& content, const std::string& anchor, int size = 13,
            const std::string& more = {}) {
    add("<text x=\"" + pixel(at_x) + "\" y=\"" + pixel(at_y) + "\" text-anchor=\"" + anchor + "\" font-size=\"" +
        std::to_string(size) + "\" fill=\"" + kTextColour + "\"" + more + ">" + escaped(content) + "</text>");
  }
  void curve(const std::vector<LossPoint>& points, const std::string& colour, double width, double opacity) {
    if (points.empty()) return;
    std::string path;
    for (const LossPoint& p : points) {
      path += (path.empty() ? "M" : "L") + pixel(x(static_cast<double>(p.step))) + " " + pixel(y(p.loss));
    }
    add("<path d=\"" + path + "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"" + pixel(width) +
        "\" stroke-opacity=\"" + number(opacity, 2) + "\" stroke-linejoin=\"round\"/>");
  }
  void dot(const LossPoint& p, const std::string& colour) {
    add("<circle cx=\"" + pixel(x(static_cast<double>(p.step))) + "\" cy=\"" + pixel(y(p.loss)) + "\" r=\"3\" fill=\"" +
        colour + "\"/>");
  }
  const std::string& body() const { return body_; }

 private:
  Range steps_, losses_;
  std::string body_;
};

void draw_axes(Canvas& canvas, Range steps, Range losses) {
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  const std::vector<double> rows = axis_ticks(losses.low, losses.high, 6);
  for (const double loss : rows) {
    canvas.line(kLeft, canvas.y(loss), right, canvas.y(loss), kFaintColour);
    canvas.text(kLeft - 8, canvas.y(loss) + 4.5, tick_text(loss, rows.size() > 1 ? rows[1] - rows[0] : 1), "end");
  }
  const std::vector<double> columns = axis_ticks(steps.low, steps.high, 8);
  for (const double step : columns) {
    canvas.line(canvas.x(step), bottom, canvas.x(step), bottom + 5, "#999");
    canvas.text(canvas.x(step), bottom + 20, tick_text(step, columns.size() > 1 ? columns[1] - columns[0] : 1),
                "middle");
  }
  canvas.line(kLeft, bottom, right, bottom, "#999");
  canvas.text((kLeft + right) / 2, kHeight - 12, "step", "middle");
  const std::string middle = pixel((kTop + bottom) / 2);
  canvas.text(18, (kTop + bottom) / 2, "loss, nats per token", "middle", 13,
              " transform=\"rotate(-90 18 " + middle + ")\"");
}

void draw_legend(Canvas& canvas, const std::vector<LossPoint>& smooth, const std::vector<LossPoint>& heldout) {
  double at_x = kWidth - kRight;
  const auto entry = [&](const std::string& what, const std::vector<LossPoint>& points, const char* colour) {
    if (points.empty()) return;
    const std::string label = what + " " + number(points.back().loss, 3);
    canvas.text(at_x, 44, label, "end");
    at_x -= 7.2 * static_cast<double>(label.size()) + 8;  // about 7 pixels a letter at size 13
    canvas.line(at_x - 22, 40, at_x, 40, colour, 3);
    at_x -= 44;
  };
  entry("held-out", heldout, kHeldoutColour);
  entry("training", smooth, kTrainColour);
}

}  // namespace

std::vector<double> axis_ticks(double low, double high, int count) {
  if (!(high > low) || count < 1) return {low};
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double distance = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= rough * 0.999) distance = factor * power;
  }
  std::vector<double> ticks;
  const double first = std::ceil(low / distance - 1e-9), last = std::floor(high / distance + 1e-9);
  for (double i = first; i <= last; ++i) ticks.push_back(i * distance + 0.0);  // + 0.0: no negative zero
  return ticks;
}

std::string draw_loss_picture(const LossCurves& curves) {
  const std::vector<LossPoint> train = finite_points(curves.train), heldout = finite_points(curves.heldout);
  const std::vector<LossPoint> smooth = smoothed(train);
  Range steps{0, 1};
  if (!train.empty()) steps.high = static_cast<double>(std::max<std::int64_t>(train.back().step, 1));
  if (!heldout.empty()) steps.high = std::max(steps.high, static_cast<double>(heldout.back().step));
  const Range losses = loss_range(train, smooth, heldout);

  Canvas canvas(steps, losses);
  canvas.text(kLeft, 28, curves.title, "start", 17, " font-weight=\"600\"");
  draw_axes(canvas, steps, losses);
  canvas.curve(thinned(train), kTrainColour, 1, 0.4);
  canvas.curve(thinned(smooth), kTrainColour, 2, 1);
  canvas.curve(thinned(heldout), kHeldoutColour, 2, 1);
  if (heldout.size() <= 60) {
    for (const LossPoint& point : heldout) canvas.dot(point, kHeldoutColour);
  }
  draw_legend(canvas, smooth, heldout);
  const std::string size = "width=\"" + number(kWidth, 0) + "\" height=\"" + number(kHeight, 0) + "\"";
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" " + size + " viewBox=\"0 0 " + number(kWidth, 0) + " " +
         number(kHeight, 0) + "\" font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"" +
         "training loss by step\">\n  <rect " + size + " fill=\"white\"/>\n" + canvas.body() + "</svg>\n";
}

}  // namespace coluber
