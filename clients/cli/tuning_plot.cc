#include "clients/cli/tuning_plot.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/strings.h"
#include "clients/cli/display.h"

namespace loci {
namespace {

using v1::TuningPoint;

constexpr double kWidth = 960, kHeight = 560;
constexpr double kLeft = 80, kRight = 660, kTop = 70, kBottom = 490;  // Of the axes.
constexpr double kLegend = 690;
// Told apart also by those who see fewer colours (Okabe and Ito).
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
constexpr const char* kInk = "#333333";

std::string Escaped(std::string_view text) {
  std::string result;
  for (const char c : SanitizeLine(text)) {
    if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else {
      result += c;
    }
  }
  return result;
}

std::string Text(double x, double y, std::string_view anchor, double size, std::string_view text, std::string_view more = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%.0f\" fill=\"%s\"%s>%s</text>\n", x, y, AbslView(anchor), size,
                         kInk, AbslView(more), Escaped(text));
}

std::string Line(double x1, double y1, double x2, double y2, const char* colour, double width, const char* dashes = "") {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%.1f\"%s/>\n", x1, y1, x2, y2, colour, width,
                         *dashes == '\0' ? "" : absl::StrCat(" stroke-dasharray=\"", dashes, "\""));
}

double Share(double value) { return std::isfinite(value) ? std::clamp(value, 0.0, 1.0) : 0; }
double Latency(const TuningPoint& point) { return std::isfinite(point.latency_us()) ? std::clamp(point.latency_us(), 0.1, 1e9) : 0.1; }

std::string LatencyLabel(double microseconds) {
  if (microseconds < 1000) return absl::StrFormat("%g us", microseconds);
  if (microseconds < 1e6) return absl::StrFormat("%g ms", microseconds / 1e3);
  return absl::StrFormat("%g s", microseconds / 1e6);
}

// From values to places.
struct Axes {
  double low_recall = 0;               // At the bottom; 1 is at the top.
  double low_decade = 0, decades = 1;  // Powers of ten of microseconds.
  double X(double latency_us) const { return kLeft + (kRight - kLeft) * (std::log10(latency_us) - low_decade) / decades; }
  double Y(double recall) const { return kBottom - (kBottom - kTop) * std::max(0.0, recall - low_recall) / (1 - low_recall); }
};

Axes AxesOf(const v1::IndexTuning& tuning) {
  double low = std::min(0.9, Share(tuning.recall_target()));
  double least = 1e9, most = 0.1;
  for (const TuningPoint& point : tuning.front()) {
    low = std::min(low, Share(point.recall_bound()));
    least = std::min(least, Latency(point));
    most = std::max(most, Latency(point));
  }
  if (least > most) least = most = 100;
  Axes axes;
  axes.low_recall = std::min(0.9, std::floor(low * 10) / 10);
  axes.low_decade = std::floor(std::log10(least) * 2) / 2;  // Half decades.
  axes.decades = std::max(0.5, std::ceil(std::log10(most) * 2) / 2 - axes.low_decade);
  return axes;
}

std::string Grid(const Axes& axes) {
  std::string svg;
  const double step = axes.low_recall >= 0.75 ? 0.02 : axes.low_recall >= 0.45 ? 0.05 : 0.1;
  for (double recall = 1; recall > axes.low_recall - 1e-9; recall -= step) {
    absl::StrAppend(&svg, Line(kLeft, axes.Y(recall), kRight, axes.Y(recall), "#e4e4e4", 1),
                    Text(kLeft - 8, axes.Y(recall) + 4, "end", 12, absl::StrFormat("%.2f", recall)));
  }
  for (int decade = -1; decade <= 9; ++decade) {
    for (const int digit : {1, 2, 5}) {
      const double latency_us = digit * std::pow(10, decade);
      const double x = axes.X(latency_us);
      if (x < kLeft - 0.5 || x > kRight + 0.5) continue;
      absl::StrAppend(&svg, Line(x, kTop, x, kBottom, "#e4e4e4", 1), Text(x, kBottom + 18, "middle", 12, LatencyLabel(latency_us)));
    }
  }
  absl::StrAppend(&svg, Line(kLeft, kBottom, kRight, kBottom, kInk, 1), Line(kLeft, kTop, kLeft, kBottom, kInk, 1));
  absl::StrAppend(&svg, Text((kLeft + kRight) / 2, kBottom + 42, "middle", 13, "CPU time of one query"));
  const double middle = (kTop + kBottom) / 2;
  absl::StrAppend(&svg, Text(26, middle, "middle", 13, "recall at 10", absl::StrFormat(" transform=\"rotate(-90 26 %.1f)\"", middle)));
  return svg;
}

std::string Dot(const Axes& axes, const TuningPoint& point, const char* colour) {
  const double x = axes.X(Latency(point)), y = axes.Y(Share(point.recall_at_10()));
  std::string svg = Line(x, y, x, axes.Y(Share(point.recall_bound())), colour, 1.5);
  absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x, y, colour);
  if (point.chosen()) absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"9\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", x, y, kInk);
  return svg;
}

}  // namespace

std::string TuningPlotSvg(const v1::IndexTuning& tuning, std::string_view title) {
  const Axes axes = AxesOf(tuning);
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      kWidth, kHeight, kWidth, kHeight);
  absl::StrAppend(&svg, Text(kLeft, 30, "start", 17, title));
  absl::StrAppend(&svg, Text(kLeft, 50, "start", 12,
                             absl::StrCat(FormatCount(tuning.row_count()), " vectors, measured on ", FormatCount(tuning.sample_row_count()), " with ",
                                          FormatCount(tuning.query_count()), tuning.query_count() == 1 ? " query" : " queries")));
  absl::StrAppend(&svg, Grid(axes));
  const double target = axes.Y(Share(tuning.recall_target()));
  absl::StrAppend(&svg, Line(kLeft, target, kRight, target, "#b00020", 1.5, "6 4"),
                  Text(kRight - 4, target + 15, "end", 12, absl::StrFormat("target %g", tuning.recall_target())));

  std::map<std::string, std::vector<const TuningPoint*>> indexes;
  for (const TuningPoint& point : tuning.front()) indexes[point.index()].push_back(&point);
  int row = 0;
  for (auto& [index, points] : indexes) {
    std::stable_sort(points.begin(), points.end(), [](const TuningPoint* a, const TuningPoint* b) { return Latency(*a) < Latency(*b); });
    const char* const colour = kColours[static_cast<size_t>(row) % std::size(kColours)];
    std::string path;
    for (const TuningPoint* point : points) {
      absl::StrAppendFormat(&path, "%s%.1f,%.1f", path.empty() ? "" : " ", axes.X(Latency(*point)), axes.Y(Share(point->recall_at_10())));
    }
    absl::StrAppendFormat(&svg, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" stroke-opacity=\"0.6\"/>\n", path, colour);
    for (const TuningPoint* point : points) absl::StrAppend(&svg, Dot(axes, *point, colour));
    const double y = kTop + 16 + 44 * row++;
    absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n", kLegend, y - 4, colour);
    absl::StrAppend(&svg, Text(kLegend + 14, y, "start", 13, CutToWidth(SanitizeLine(index), 32)));
    absl::StrAppend(&svg, Text(kLegend + 14, y + 16, "start", 11,
                               absl::StrCat("memory ", FormatBytes(points[0]->memory_bytes()), ", build ",
                                            FormatSeconds(static_cast<double>(points[0]->build_ms()) / 1000))));
  }
  const double y = kTop + 24 + 44 * row;
  absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"8\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", kLegend, y - 4, kInk);
  absl::StrAppend(&svg, Text(kLegend + 14, y, "start", 12, "chosen"));
  absl::StrAppend(&svg, Line(kLegend, y + 14, kLegend, y + 30, kInk, 1.5), Text(kLegend + 14, y + 27, "start", 12, "down to the 95 % bound"), "</svg>\n");
  return svg;
}

}  // namespace loci
