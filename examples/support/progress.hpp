// SPDX-License-Identifier: Apache-2.0
// How a long run shows where it is: one line that rewrites itself on a terminal, plain lines at
// intervals elsewhere.
//
//   step 1200/2000  loss 1.8421  1340 tokens/s  left 7m 12s
//   step 1200/5000  loss 1.5120  612000 tokens/s  31.0 % of peak  4.20 GiB  left 1m 42s    (a GPU)
//
// progress_line() is a pure function of the numbers; progress_reporter decides when and how to
// print.
#pragma once

#include <unistd.h>  // isatty

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace mmrec::examples {

struct progress_state {
  std::int64_t step = 0;         // done
  std::int64_t total_steps = 0;  // to do, those before a resume included
  double loss = 0;
  double tokens_per_second = 0;  // 0: not known yet
  double seconds_left = -1;      // below 0: not known yet
  double utilisation = 0;        // model flops over the device's peak; 0: not known
  double memory = 0;             // bytes that are held; 0: not known
};

/// Rates from what was done since this process began (at first_step, after a resume).
inline progress_state progress_at(std::int64_t step, std::int64_t first_step,
                                  std::int64_t total_steps, std::int64_t tokens_per_step,
                                  double elapsed_seconds, double loss) {
  progress_state s{.step = step, .total_steps = total_steps, .loss = loss};
  const auto done = static_cast<double>(step - first_step);
  if (done > 0 && elapsed_seconds > 0) {
    s.tokens_per_second = done * static_cast<double>(tokens_per_step) / elapsed_seconds;
    s.seconds_left =
        elapsed_seconds / done * static_cast<double>(std::max<std::int64_t>(0, total_steps - step));
  }
  return s;
}

/// "45s", "7m 12s", "3h 05m", "2d 04h"
inline std::string duration_text(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto s = static_cast<long>(std::lround(seconds));
  char text[48];
  if (s < 60) {
    std::snprintf(text, sizeof text, "%lds", s);
  } else if (s < 3600) {
    std::snprintf(text, sizeof text, "%ldm %02lds", s / 60, s % 60);
  } else if (s < 86400) {
    std::snprintf(text, sizeof text, "%ldh %02ldm", s / 3600, s / 60 % 60);
  } else {
    std::snprintf(text, sizeof text, "%ldd %02ldh", s / 86400, s / 3600 % 24);
  }
  return text;
}

inline std::string progress_line(const progress_state& s) {
  const std::string total = std::to_string(s.total_steps);
  std::string step = std::to_string(s.step);
  step.insert(0, total.size() - std::min(total.size(), step.size()), ' ');  // columns stay in place
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, "  loss %.4f", s.loss);
  std::string line = "step " + step + "/" + total + numbers;
  if (s.tokens_per_second > 0) {
    std::snprintf(numbers, sizeof numbers, "  %.*f tokens/s", s.tokens_per_second < 100 ? 1 : 0,
                  s.tokens_per_second);
    line += numbers;
  }
  if (s.utilisation > 0) {
    std::snprintf(numbers, sizeof numbers, "  %.1f %% of peak", 100 * s.utilisation);
    line += numbers;
  }
  if (s.memory > 0) {
    std::snprintf(numbers, sizeof numbers, "  %.2f GiB", s.memory / 0x1p30);
    line += numbers;
  }
  if (s.seconds_left >= 0) line += "  left " + duration_text(s.seconds_left);
  return line;
}

/// Prints progress to a stream. Time is an argument, so that nothing here waits or guesses.
class progress_reporter {
 public:
  struct options {
    bool terminal = false;
    double terminal_interval = 0.1;  // seconds between two updates
    double plain_interval = 10;
  };

  progress_reporter(std::FILE* out, options how) : out_(out), options_(how) {}
  explicit progress_reporter(std::FILE* out)
      : progress_reporter(out, options{.terminal = ::isatty(::fileno(out)) == 1}) {}
  progress_reporter(const progress_reporter&) = delete;
  progress_reporter& operator=(const progress_reporter&) = delete;
  ~progress_reporter() { end_line(); }

  /// Shows the state if the last one is old enough or this is the last step.
  void update(const progress_state& s, double now) {
    if (!is_due(s, now)) return;
    shown_ = true;
    last_ = now;
    const std::string line = progress_line(s);
    if (!options_.terminal) {
      std::fprintf(out_, "%s\n", line.c_str());
    } else {
      const std::size_t old =
          width_ > line.size() ? width_ - line.size() : 0;  // blank what stood longer
      std::fprintf(out_, "\r%s%s", line.c_str(), std::string(old, ' ').c_str());
      width_ = line.size();
    }
    std::fflush(out_);
  }

  /// Whether update() would show the state: what costs something need not be known before.
  bool is_due(const progress_state& s, double now) const {
    const double interval =
        options_.terminal ? options_.terminal_interval : options_.plain_interval;
    return !shown_ || s.step >= s.total_steps || now - last_ >= interval;
  }

  /// A line of its own: a validation loss, a checkpoint, a sample.
  void note(std::string_view text) {
    end_line();
    std::fprintf(out_, "%.*s\n", static_cast<int>(text.size()), text.data());
    std::fflush(out_);
  }

  /// Ends the line that rewrites itself, so that other output begins on a new one.
  void end_line() {
    if (width_ != 0) std::fputc('\n', out_);
    width_ = 0;
    std::fflush(out_);
  }

 private:
  std::FILE* out_;
  options options_;
  bool shown_ = false;
  double last_ = 0;
  std::size_t width_ = 0;
};

}  // namespace mmrec::examples
