// SPDX-License-Identifier: Apache-2.0
// What the example programs write: metrics, progress and plots.
#include "../examples/support/csv.hpp"
#include "../examples/support/plot.hpp"
#include "../examples/support/progress.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

using namespace mmrec::examples;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

std::size_t count_of(std::string_view text, std::string_view part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size()))
    ++n;
  return n;
}

}  // namespace

// --- csv.hpp -------------------------------------------------------------------------------------

TEST_CASE("csv: header once, then rows that are on disk at once", "[components]") {
  const scratch_dir dir;
  csv_writer log(dir / "m.csv", {"step", "loss", "note, quoted"});
  CHECK(dir.read("m.csv") == "step,loss,\"note, quoted\"\n");
  log.row(1, 0.1, "plain");
  CHECK(dir.read("m.csv") == "step,loss,\"note, quoted\"\n1,0.1,plain\n");
  log.row(std::int64_t{2}, not_a_number, "a \"b\"\nc");
  log.row(3, -infinity, std::string());
  log.row(4, 1.0f / 3.0f, "");
  CHECK(dir.read("m.csv") ==
        "step,loss,\"note, quoted\"\n1,0.1,plain\n2,nan,\"a "
        "\"\"b\"\"\nc\"\n3,-inf,\n4,0.33333334,\n");
}

TEST_CASE("csv: a resumed run keeps the rows up to its step and goes on", "[components]") {
  const scratch_dir dir;
  {
    csv_writer log(dir / "m.csv", {"step", "loss"});
    for (int step = 1; step <= 5; ++step) log.row(step, step * 0.5);
  }
  dir.write("m.csv", dir.read("m.csv") + "6,2.");  // the process ended within a row
  {
    csv_writer log(dir / "m.csv", {"step", "loss"}, resume_at{3});
    CHECK(dir.read("m.csv") == "step,loss\n1,0.5\n2,1\n3,1.5\n");
    log.row(4, 9);
  }
  {
    csv_writer log(dir / "m.csv", {"step", "loss"}, resume_at{100});
    log.row(101, 8);
  }
  CHECK(dir.read("m.csv") == "step,loss\n1,0.5\n2,1\n3,1.5\n4,9\n101,8\n");
  CHECK(dir.files() == std::vector<std::string>{"m.csv"});
}

TEST_CASE("csv: a resumed run without a file, or with a header cut off, begins one",
          "[components]") {
  const scratch_dir dir;
  csv_writer(dir / "a.csv", {"step", "loss"}, resume_at{3}).row(4, 1);
  CHECK(dir.read("a.csv") == "step,loss\n4,1\n");
  dir.write("b.csv", "step,lo");
  csv_writer(dir / "b.csv", {"step", "loss"}, resume_at{3}).row(4, 1);
  CHECK(dir.read("b.csv") == "step,loss\n4,1\n");
}

TEST_CASE("csv: nothing that is there is overwritten unasked", "[errors]") {
  const scratch_dir dir;
  dir.write("m.csv", "step,loss\n1,2\n");
  CHECK(says(message_of<mmrec::error>([&] { csv_writer(dir / "m.csv", {"step", "loss"}); }),
             {"csv_writer: path", "m.csv'", "File exists"}));
  CHECK(says(
      message_of<mmrec::error>([&] { csv_writer(dir / "m.csv", {"step", "rate"}, resume_at{1}); }),
      {"header 'step,rate'", "m.csv' with 'step,loss'"}));
  CHECK(dir.read("m.csv") == "step,loss\n1,2\n");
  dir.write("n.csv", "step,loss\nx,2\n");
  CHECK(says(
      message_of<mmrec::error>([&] { csv_writer(dir / "n.csv", {"step", "loss"}, resume_at{1}); }),
      {"begin with a step", "'x,2'"}));
  CHECK(dir.read("n.csv") == "step,loss\nx,2\n");
  // What gave the path.
  const auto of_option = [&](const char* name, auto how) {
    return message_of<mmrec::error>(
        [&] { csv_writer(dir / name, {"step", "rate"}, how, "--metrics"); });
  };
  CHECK(says(of_option("m.csv", existing::refuse), {"csv_writer: --metrics: expected", "m.csv"}));
  CHECK(says(of_option("m.csv", resume_at{1}), {"csv_writer: --metrics: expected", "m.csv"}));
  CHECK(says(of_option("no/m.csv", resume_at{1}), {"--metrics: expected", "no/m.csv"}));
  csv_writer(dir / "m.csv", {"step"}, existing::replace).row(1);
  CHECK(dir.read("m.csv") == "step\n1\n");
}

TEST_CASE("csv: wrong columns, rows and places are refused", "[errors]") {
  const scratch_dir dir;
  CHECK(says(message_of<mmrec::error>([&] { csv_writer(dir / "m.csv", {}); }), {"columns"}));
  CHECK(says(message_of<mmrec::error>([&] { csv_writer(dir / "no" / "m.csv", {"step"}); }),
             {"No such file"}));
  csv_writer log(dir / "m.csv", {"step", "loss"});
  CHECK(says(message_of<mmrec::error>([&] { log.row(1); }), {"csv_writer::row", "2 for", "got 1"}));
  CHECK(dir.read("m.csv") == "step,loss\n");
}

TEST_CASE("csv: a full disk is an error, not a lost row", "[errors]") {
  if (!std::filesystem::exists("/dev/full")) {
    WARN("there is no /dev/full: not tested");
    return;
  }
  CHECK(says(message_of<mmrec::runtime_failure>(
                 [] { csv_writer("/dev/full", {"step"}, existing::replace); }),
             {"csv_writer", "/dev/full", "No space left"}));
}

// --- progress.hpp --------------------------------------------------------------------------------

TEST_CASE("progress: the line", "[components]") {
  CHECK(progress_line({.step = 7, .total_steps = 2000, .loss = 2.5}) ==
        "step    7/2000  loss 2.5000");
  CHECK(progress_line({.step = 1200,
                       .total_steps = 2000,
                       .loss = 1.84214,
                       .tokens_per_second = 1340.4,
                       .seconds_left = 432}) ==
        "step 1200/2000  loss 1.8421  1340 tokens/s  left 7m 12s");
  CHECK(progress_line({.step = 1,
                       .total_steps = 1,
                       .loss = not_a_number,
                       .tokens_per_second = 9.96,
                       .seconds_left = 0}) == "step 1/1  loss nan  10.0 tokens/s  left 0s");
  CHECK(progress_line({.step = 1,
                       .total_steps = 1,
                       .loss = 1,
                       .tokens_per_second = 612000,
                       .seconds_left = 0,
                       .utilisation = 0.3104,
                       .memory = 4.2 * 0x1p30}) ==
        "step 1/1  loss 1.0000  612000 tokens/s  31.0 % of peak  4.20 GiB  left 0s");
}

TEST_CASE("progress: durations", "[components]") {
  CHECK(duration_text(0.4) == "0s");
  CHECK(duration_text(59.4) == "59s");
  CHECK(duration_text(59.6) == "1m 00s");
  CHECK(duration_text(3599) == "59m 59s");
  CHECK(duration_text(3600) == "1h 00m");
  CHECK(duration_text(86399) == "23h 59m");
  CHECK(duration_text(2 * 86400 + 4 * 3600) == "2d 04h");
  CHECK(duration_text(-1) == "?");
  CHECK(duration_text(not_a_number) == "?");
  CHECK(duration_text(infinity) == "?");
}

TEST_CASE("progress: rates count what this process did", "[components]") {
  const auto s = progress_at(1500, 1000, 2000, 768, 250, 1.5);
  CHECK(s.step == 1500);
  CHECK_THAT(s.tokens_per_second, Catch::Matchers::WithinAbs(500 * 768 / 250.0, 1e-9));
  CHECK_THAT(s.seconds_left, Catch::Matchers::WithinAbs(250, 1e-9));
  const auto start = progress_at(1000, 1000, 2000, 768, 0, 1.5);
  CHECK(start.tokens_per_second == 0);
  CHECK(start.seconds_left < 0);
}

TEST_CASE("progress: one line that rewrites itself on a terminal, plain lines elsewhere",
          "[components]") {
  const auto written = [](bool terminal) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
    REQUIRE(file);
    {
      progress_reporter report(file.get(),
                               {.terminal = terminal, .terminal_interval = 1, .plain_interval = 1});
      report.update({.step = 1, .total_steps = 30, .loss = 10}, 100);
      report.update({.step = 2, .total_steps = 30, .loss = 9}, 100.9);  // too early
      report.update({.step = 3, .total_steps = 30, .loss = 8}, 101.1);
      report.note("saved");
      report.update({.step = 30, .total_steps = 30, .loss = 7}, 101.2);  // the last is always shown
    }
    std::string text(1000, '\0');
    std::rewind(file.get());
    text.resize(std::fread(text.data(), 1, text.size(), file.get()));
    return text;
  };
  CHECK(written(true) ==
        "\rstep  1/30  loss 10.0000\rstep  3/30  loss 8.0000 \nsaved\n\rstep 30/30  loss 7.0000\n");
  CHECK(written(false) ==
        "step  1/30  loss 10.0000\nstep  3/30  loss 8.0000\nsaved\nstep 30/30  loss 7.0000\n");
}

// --- plot.hpp
// ---------------------------------------------------------------------------------------

TEST_CASE("plot: ticks are round and inside", "[components]") {
  CHECK(axis_ticks(0, 10, false) == std::vector<double>{0, 2, 4, 6, 8, 10});
  CHECK(axis_ticks(-1, 1, false, 4) == std::vector<double>{-1, -0.5, 0, 0.5, 1});
  CHECK(axis_ticks(1, 1000, true) == std::vector<double>{1, 10, 100, 1000});
  CHECK(axis_ticks(8, 100, true) == std::vector<double>{10, 20, 50, 100});
  // Any range: a few ticks, in order, none outside by more than rounding.
  for (const auto& [low, high] :
       {std::pair(0.0, 1e-300), {1e300, 1.5e300}, {1.7, 4.2}, {-3e5, 12.0}}) {
    CAPTURE(low, high);
    const auto ticks = axis_ticks(low, high, false);
    CHECK(ticks.size() >= 2);
    CHECK(ticks.size() <= 13);
    CHECK(std::is_sorted(ticks.begin(), ticks.end()));
    CHECK(ticks.front() >= low - (high - low) * 1e-6);
    CHECK(ticks.back() <= high + (high - low) * 1e-6);
  }
}

TEST_CASE("plot: curves in one self-contained file for light and dark", "[components]") {
  const auto svg =
      line_plot({.title = "a < b & \"c\"", .x_label = "step", .y_label = "loss"},
                {{"train", {0, 1, 2, 3}, {4, 3, 2, 1}}, {"validation", {0, 3}, {4, 2}}});
  CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count_of(svg, "@media (prefers-color-scheme: dark)") == 1);
  CHECK(count_of(svg, "a &lt; b &amp; &quot;c&quot;") == 2);  // title and heading
  CHECK(count_of(svg, "class=\"curve ") == 2);
  CHECK(count_of(svg, ">train</text>") == 1);
  CHECK(count_of(svg, ">validation</text>") == 1);
  CHECK(count_of(svg, ">step</text>") == 1);
  CHECK(count_of(svg, "http") == 1);  // the namespace, and nothing to load
  CHECK(count_of(svg, "<text") == count_of(svg, "</text>"));
  // Both curves begin at the left of the frame at the same height.
  CHECK(count_of(svg, "d=\"M74.0 ") >= 2);
}

TEST_CASE("plot: points that cannot be drawn interrupt the curve", "[components]") {
  const auto curve = [](const plot_options& options, std::vector<double> y) {
    std::vector<double> x(y.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
    const auto svg = line_plot(options, {{"s", x, std::move(y)}});
    CHECK(count_of(svg, "nan") == 0);
    CHECK(count_of(svg, "inf") == 0);
    const auto at = svg.find("class=\"curve");
    return at == svg.npos ? std::string() : svg.substr(at, svg.find("/>", at) - at);
  };
  CHECK(count_of(curve({}, {1, 2, not_a_number, 3, 4}), "M") == 2);
  CHECK(count_of(curve({}, {1, not_a_number, infinity}), "h0") == 1);  // a single point
  CHECK(count_of(curve({.log_y = true}, {10, 1, 0, -5, 1, 10}), "M") == 2);
  CHECK(curve({}, {not_a_number, not_a_number}).empty());
  CHECK(curve({}, {}).empty());
  CHECK(count_of(curve({}, {5, 5, 5}), "L") == 2);
  CHECK(count_of(curve({}, {1e17, 1e17 + 16}), "L") == 1);
}

TEST_CASE("plot: long curves stay small and keep their extremes", "[components]") {
  std::vector<double> x(200000);
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<double>(i);
    y[i] = std::sin(x[i] / 1000);
  }
  y[123456] = 5.3;
  const auto svg = line_plot({}, {{"s", x, y}});
  CHECK(svg.size() < 60000);
  CHECK(svg.size() > 5000);
  // The frame is 62 to 398; the spike is 0.05 / 1.1 of that below its top.
  CHECK(count_of(svg, " 77.3L") == 1);
}

TEST_CASE("plot: lists that do not fit are refused", "[errors]") {
  CHECK(says(message_of<mmrec::error>([] { line_plot({}, {{"s", {1, 2}, {1}}}); }),
             {"line_plot: series 's'", "got 2"}));
  CHECK(says(message_of<mmrec::error>([] { line_plot({.width = 10}, {}); }),
             {"200 x 150", "10 x 450"}));
}
