// SPDX-License-Identifier: Apache-2.0
// What every picture of plot.hpp is made of: axes with round ticks, and a canvas that writes SVG
// which needs nothing else and follows the reader's light or dark mode.
#pragma once

#include <mmrec/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mmrec::examples {

struct plot_options {
  std::string title = {};
  std::string x_label = {};
  std::string y_label = {};
  bool log_x = false;
  bool log_y = false;
  int width = 800;
  int height = 450;
};

inline std::string xml_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;  // control bytes are not XML
    }
  }
  return out;
}

/// "0.25", "1500", "1e+06"
inline std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::abs(value) >= 1e6 ? "%.3g" : "%.6g", value);
  return text;
}

/// Round numbers from low to high: about `count` of 1, 2 or 5 times a power of ten; on a
/// logarithmic axis powers of ten, with 2 and 5 where the range is short.
inline std::vector<double> axis_ticks(double low, double high, bool logarithmic, int count = 6) {
  std::vector<double> ticks;
  if (logarithmic) {
    const bool few_decades = std::log10(high / low) < 3;
    for (double e = std::floor(std::log10(low)); e <= std::ceil(std::log10(high)); ++e) {
      for (const double m : {1.0, 2.0, 5.0}) {
        const double t = m * std::pow(10.0, e);
        if ((m == 1.0 || few_decades) && t >= low * (1 - 1e-9) && t <= high * (1 + 1e-9))
          ticks.push_back(t);
      }
    }
    return ticks;
  }
  const double raw = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double step = power * (raw / power < 1.5   ? 1
                               : raw / power < 3.5 ? 2
                               : raw / power < 7.5 ? 5
                                                   : 10);
  const double first = std::ceil(low / step - 1e-9);
  for (int k = 0; k <= 2 * count && first + k <= high / step + 1e-9; ++k) {
    ticks.push_back((first + k) * step + 0.0);  // + 0.0 turns -0 into 0
  }
  return ticks;
}

namespace detail {

/// Data to pixels along one axis.
struct plot_axis {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool logarithmic = false;
  double begin = 0;  // pixels of low
  double end = 0;    // and of high

  bool drawable(double v) const { return std::isfinite(v) && (!logarithmic || v > 0); }
  void include(double v) { low = std::min(low, v), high = std::max(high, v); }
  /// Room around the data; a range even when there is none.
  void settle(double margin) {
    if (low > high) low = logarithmic ? 1 : 0, high = logarithmic ? 10 : 1;
    const double largest = std::max(std::abs(low), std::abs(high));
    const bool flat = high - low <= 1e-12 * largest;  // one value, as far as ticks can tell
    if (logarithmic) {
      const double factor = flat ? 2 : std::pow(high / low, margin);
      low /= factor, high *= factor;
    } else {
      const double room = flat ? std::max(1e-12, largest * 0.5) : (high - low) * margin;
      low -= room, high += room;
    }
  }
  double operator()(double v) const {
    const double share =
        logarithmic ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    return begin + share * (end - begin);
  }
};

/// The parts that both kinds of picture have.
class svg_canvas {
 public:
  svg_canvas(const plot_options& options, const std::vector<std::string>& legend)
      : options_(options) {
    if (options.width < 200 || options.height < 150) {
      throw error("plot", "width and height", "at least 200 x 150",
                  std::to_string(options.width) + " x " + std::to_string(options.height));
    }
    const std::string size =
        std::to_string(options.width) + "\" height=\"" + std::to_string(options.height);
    const std::string box = std::to_string(options.width) + " " + std::to_string(options.height);
    svg_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " + box +
           "\" role=\"img\">\n<title>" + xml_escape(options.title) + "</title>\n" + style();
    element("<rect class=\"page\" width=\"100%\" height=\"100%\"/>");
    text("title", options.width / 2.0, 24, "middle", options.title);
    add_legend(legend);
    text("", (left() + right()) / 2, options.height - 10.0, "middle", options.x_label);
    const std::string middle = pixels((top() + bottom()) / 2);
    element("<text text-anchor=\"middle\" transform=\"translate(18 " + middle + ") rotate(-90)\">" +
            xml_escape(options.y_label) + "</text>");
  }

  double left() const { return 74; }
  double right() const { return options_.width - 20.0; }
  double top() const { return top_; }
  double bottom() const { return options_.height - 52.0; }

  void element(const std::string& markup) { svg_ += markup + "\n"; }
  void text(const char* kind, double x, double y, const char* anchor, std::string_view content) {
    element("<text class=\"" + std::string(kind) + "\" x=\"" + pixels(x) + "\" y=\"" + pixels(y) +
            "\" text-anchor=\"" + anchor + "\">" + xml_escape(content) + "</text>");
  }
  void line(double x1, double y1, double x2, double y2, const char* kind) {
    element("<path class=\"" + std::string(kind) + "\" d=\"M" + pixels(x1) + " " + pixels(y1) +
            "L" + pixels(x2) + " " + pixels(y2) + "\"/>");
  }
  void x_ticks(const plot_axis& axis) {
    for (const double t : axis_ticks(axis.low, axis.high, axis.logarithmic, 8)) {
      line(axis(t), top(), axis(t), bottom(), "grid");
      text("", axis(t), bottom() + 18, "middle", short_number(t));
    }
  }
  void y_ticks(const plot_axis& axis) {
    for (const double t : axis_ticks(axis.low, axis.high, axis.logarithmic)) {
      line(left(), axis(t), right(), axis(t), "grid");
      text("", left() - 8, axis(t) + 4, "end", short_number(t));
    }
  }
  void frame() {
    line(left(), bottom(), right(), bottom(), "axis");
    line(left(), top(), left(), bottom(), "axis");
  }
  std::string finish() && { return std::move(svg_) + "</svg>\n"; }

  static std::string colour(std::size_t i) { return std::to_string(i % 6); }
  static std::string pixels(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", v);
    return text;
  }

 private:
  /// Between title and plot, in as many rows as it takes, so that it never covers the data.
  void add_legend(const std::vector<std::string>& names) {
    double x = left();
    double y = 46;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const double room = 40 + 7 * static_cast<double>(names[i].size());
      if (x > left() && x + room > right()) x = left(), y += 18;
      element("<rect class=\"fill" + colour(i) + "\" x=\"" + pixels(x) + "\" y=\"" + pixels(y - 9) +
              "\" width=\"14\" height=\"10\"/>");
      text("", x + 20, y, "start", names[i]);
      x += room;
    }
    top_ = names.empty() ? 40 : y + 16;
  }

  // Okabe and Ito's colours, which colour-blind readers tell apart; brighter ones in dark mode.
  static std::string style() {
    const std::pair<const char*, const char*> colours[6] = {
        {"#0072b2", "#56b4e9"}, {"#d55e00", "#ff9a4d"}, {"#009e73", "#3ddcae"},
        {"#cc79a7", "#e8a7c9"}, {"#8a6d00", "#f0e442"}, {"#555555", "#bbbbbb"}};
    std::string light = ".page{fill:#fff}text{fill:#222}.grid{stroke:#e3e3e3}.axis{stroke:#222}";
    std::string dark =
        ".page{fill:#0d1117}text{fill:#e6edf3}.grid{stroke:#2d333b}.axis{stroke:#e6edf3}";
    for (std::size_t i = 0; i < 6; ++i) {
      const auto rule = [&](const char* value) {
        return ".line" + colour(i) + "{stroke:" + value + "}.fill" + colour(i) + "{fill:" + value +
               "}";
      };
      light += rule(colours[i].first);
      dark += rule(colours[i].second);
    }
    return "<style>\ntext{font:12px "
           "sans-serif}.title{font-size:16px;font-weight:bold}path{fill:none}"
           ".curve{stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}\n" +
           light + "\n@media (prefers-color-scheme: dark){" + dark + "}\n</style>\n";
  }

  plot_options options_;
  double top_ = 40;
  std::string svg_;
};

}  // namespace detail

}  // namespace mmrec::examples
