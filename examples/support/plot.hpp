// SPDX-License-Identifier: Apache-2.0
// Pictures without a plotting library: line plots as one SVG text that needs nothing else and
// follows the reader's light or dark mode.
//
//   const auto svg = line_plot({.title = "loss", .x_label = "step", .y_label = "nats"},
//                              {{"train", steps, losses}, {"validation", vs, vl}});
//   write_text_atomically("loss.svg", svg);
#pragma once

#include "svg.hpp"

#include <mmrec/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace mmrec::examples {

/// A curve. Points that are not finite, or not above 0 on a logarithmic axis, interrupt it.
struct plot_series {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;
};

namespace detail {

/// SVG path commands for consecutive points in pixels. Of the points in one pixel column only the
/// first, lowest, highest and last can be seen.
inline std::string path_of(const std::vector<std::pair<double, double>>& points) {
  std::string path;
  const auto add = [&](std::size_t i) {
    path += (path.empty() ? "M" : "L") + svg_canvas::pixels(points[i].first) + " " +
            svg_canvas::pixels(points[i].second);
  };
  for (std::size_t begin = 0, end = 0; begin < points.size(); begin = end) {
    std::size_t low = begin;
    std::size_t high = begin;
    for (end = begin;
         end < points.size() && std::floor(points[end].first) == std::floor(points[begin].first);
         ++end) {
      if (points[end].second < points[low].second) low = end;
      if (points[end].second > points[high].second) high = end;
    }
    add(begin);
    for (const std::size_t i : {std::min(low, high), std::max(low, high)}) {
      if (i != begin && i != end - 1) add(i);
    }
    if (end - begin > 1) add(end - 1);
  }
  // A single point is a line of length 0 with round ends.
  return points.size() == 1 ? path + "h0" : path;
}

}  // namespace detail

/// Curves over a common x axis, with a legend.
inline std::string line_plot(const plot_options& options, const std::vector<plot_series>& series) {
  std::vector<std::string> names;
  for (const plot_series& s : series) names.push_back(s.name);
  detail::svg_canvas canvas(options, names);
  detail::plot_axis x{.logarithmic = options.log_x, .begin = canvas.left(), .end = canvas.right()};
  detail::plot_axis y{.logarithmic = options.log_y, .begin = canvas.bottom(), .end = canvas.top()};
  for (const plot_series& s : series) {
    if (s.x.size() != s.y.size()) {
      throw error("line_plot", "series '" + s.name + "'",
                  "as many x as y (" + std::to_string(s.y.size()) + ")",
                  std::to_string(s.x.size()));
    }
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (x.drawable(s.x[i]) && y.drawable(s.y[i])) x.include(s.x[i]), y.include(s.y[i]);
    }
  }
  x.settle(0);
  y.settle(0.05);
  canvas.x_ticks(x);
  canvas.y_ticks(y);
  canvas.frame();
  for (std::size_t k = 0; k < series.size(); ++k) {
    const plot_series& s = series[k];
    std::vector<std::pair<double, double>> run;
    std::string path;
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (x.drawable(s.x[i]) && y.drawable(s.y[i])) {
        run.emplace_back(x(s.x[i]), y(s.y[i]));
      } else {
        path += detail::path_of(run);
        run.clear();
      }
    }
    path += detail::path_of(run);
    if (!path.empty()) {
      canvas.element("<path class=\"curve line" + detail::svg_canvas::colour(k) + "\" d=\"" + path +
                     "\"/>");
    }
  }
  return std::move(canvas).finish();
}

}  // namespace mmrec::examples
