// SPDX-License-Identifier: Apache-2.0
// What the example programs are made of, except for mathematics, safetensors and SHA-256.
#include "../examples/support/config.hpp"
#include "../examples/support/cpu.hpp"
#include "../examples/support/csv.hpp"
#include "../examples/support/plot.hpp"
#include "../examples/support/progress.hpp"
#include "../examples/support/table.hpp"
#include "../examples/support/text_data.hpp"
#include "embedded_text.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
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

/// A text of n bytes in which every position is recognisable: byte i is i modulo 251.
std::vector<std::uint8_t> counting_text(std::size_t n) {
  std::vector<std::uint8_t> text(n);
  for (std::size_t i = 0; i < n; ++i) text[i] = static_cast<std::uint8_t>(i % 251);
  return text;
}

struct batch {
  std::vector<int> inputs;
  std::vector<int> targets;
  bool fresh = false;
  bool operator==(const batch&) const = default;
};

batch draw(batch_sampler& sampler, std::size_t tokens) {
  batch b{std::vector<int>(tokens), std::vector<int>(tokens)};
  b.fresh = sampler.next(std::span(b.inputs), std::span(b.targets));
  return b;
}

/// Parses a command line with the options that the checks are for.
struct options_under_test {
  double dropout = 0.1;
  double lr = 1e-3;
  double decay = 0.1;
  std::int64_t size = 64;
  bool flag = false;
  std::string config;

  std::string error_of(std::vector<std::string> arguments) {
    std::string message;
    parse(arguments, message);
    return message;
  }
  void parse(std::vector<std::string> arguments, std::string& message) {
    CLI::App app("test");
    add_config_file(app);
    app.add_option("--dropout", dropout)->check(rate());
    app.add_option("--lr", lr)->check(positive());
    app.add_option("--decay", decay)->check(non_negative());
    app.add_option("--size", size)->check(size_in(16, 4096));
    app.add_flag("--flag", flag);
    std::reverse(arguments.begin(), arguments.end());
    try {
      app.parse(arguments);
    } catch (const CLI::ParseError& e) {
      message = e.what();
      return;
    }
    config = effective_config(app);
  }
};

}  // namespace

// --- text_data.hpp -------------------------------------------------------------------------------

TEST_CASE("text: a file is its bytes, valid UTF-8 or not", "[components]") {
  const scratch_dir dir;
  const std::string text("\xff\xfe\0 A\x80\r\n", 8);
  dir.write("t", text);
  const auto loaded = load_text(dir / "t");
  CHECK(std::equal(loaded.begin(), loaded.end(), as_text(text).begin(), as_text(text).end()));
}

TEST_CASE("text: files that are no text are refused by name", "[errors]") {
  const scratch_dir dir;
  dir.write("empty.txt", "");
  CHECK(says(message_of<mmrec::error>([&] { load_text(dir / "empty.txt"); }),
             {"load_text: path", "empty.txt'", "an empty file"}));
  CHECK(says(message_of<mmrec::error>([&] { load_text(dir / "absent.txt"); }),
             {"load_text: path", "absent.txt'", "No such file"}));
  CHECK(says(message_of<mmrec::error>([&] { load_text(dir.path()); }),
             {"load_text: path", "a directory"}));
  CHECK(says(message_of<mmrec::error>([] { load_text("/dev/zero"); }), {"a device or pipe"}));
  if (::geteuid() != 0) {  // for root every file is readable
    dir.write("secret.txt", "x");
    std::filesystem::permissions(dir / "secret.txt", std::filesystem::perms::none);
    CHECK(says(message_of<mmrec::error>([&] { load_text(dir / "secret.txt"); }),
               {"Permission denied"}));
  }
}

TEST_CASE("text: the split is at the fraction and loses nothing", "[components]") {
  const auto text = counting_text(1115394);
  const auto [train, validation] = split_text(text, 0.1);
  CHECK(train.size() == 1003854);  // int(0.9 n), as other character-level recipes split this text
  CHECK(train.size() + validation.size() == text.size());
  CHECK(validation.data() == text.data() + train.size());
  CHECK(split_text(text, 0).validation.empty());
  CHECK(split_text({}, 0.5).train.empty());
}

TEST_CASE("text: a fraction outside [0, 1) is refused", "[errors]") {
  const double fraction = GENERATE(-0.1, 1.0, 1.5, not_a_number, infinity);
  CHECK(says(message_of<mmrec::error>([&] { split_text({}, fraction); }),
             {"split_text: validation_fraction", "[0, 1)"}));
}

TEST_CASE("sampler: targets are the next bytes, in both modes", "[components]") {
  const auto text = counting_text(1000);
  const auto mode = GENERATE(sampling::windows, sampling::streams);
  CAPTURE(sampling_name(mode));
  batch_sampler sampler(text, {.mode = mode, .rows = 3, .length = 7, .seed = 5});
  for (int step = 0; step < 200; ++step) {
    const batch b = draw(sampler, 21);
    for (std::size_t i = 0; i < 21; ++i) {
      REQUIRE(b.targets[i] == (b.inputs[i] + 1) % 251);
      if (i % 7 != 0) REQUIRE(b.inputs[i] == b.targets[i - 1]);
    }
  }
}

TEST_CASE("sampler: windows reach every start and differ by seed, batch and row", "[components]") {
  const auto text = counting_text(40);
  batch_sampler sampler(text, {.rows = 2, .length = 8, .seed = 1});
  std::set<int> starts;
  std::size_t equal_rows = 0;
  for (int step = 0; step < 500; ++step) {
    const batch b = draw(sampler, 16);
    CHECK(b.fresh);
    starts.insert(b.inputs[0]);
    equal_rows += b.inputs[0] == b.inputs[8] ? 1 : 0;
  }
  // 40 bytes hold 32 windows of 8 inputs and one target: the first starts at 0, the last at 31.
  CHECK(starts.size() == 32);
  CHECK(*starts.rbegin() == 31);
  CHECK(equal_rows < 40);  // 500 / 32 = 16 expected by chance
  batch_sampler other(text, {.rows = 2, .length = 8, .seed = 2});
  batch_sampler again(text, {.rows = 2, .length = 8, .seed = 1});
  batch_sampler first(text, {.rows = 2, .length = 8, .seed = 1});
  const batch a = draw(again, 16);
  CHECK(a == draw(first, 16));
  CHECK_FALSE(a == draw(other, 16));
}

TEST_CASE("sampler: a stream row reads its own part from batch to batch", "[components]") {
  // 3 rows x 33 bytes: 4 batches of 8 and one byte over.
  const auto text = counting_text(100);
  batch_sampler sampler(text, {.mode = sampling::streams, .rows = 3, .length = 8, .seed = 1});
  REQUIRE(sampler.batches_per_epoch() == 4);
  for (int epoch = 0; epoch < 5; ++epoch) {
    int previous[3] = {};
    for (int step = 0; step < 4; ++step) {
      const batch b = draw(sampler, 24);
      CHECK(b.fresh == (step == 0));
      for (std::size_t row = 0; row < 3; ++row) {
        const int begin = b.inputs[row * 8];
        CHECK(begin >= static_cast<int>(row) * 33);
        CHECK(begin + 7 < static_cast<int>(row + 1) * 33);
        if (epoch == 0 && step == 0) CHECK(begin == static_cast<int>(row) * 33);
        if (step > 0) CHECK(begin == previous[row]);
        previous[row] = b.targets[row * 8 + 7];
      }
    }
  }
}

TEST_CASE("sampler: the smallest text works, one byte less does not", "[components][errors]") {
  const auto text = counting_text(25);
  batch_sampler streams(text, {.mode = sampling::streams, .rows = 3, .length = 8});
  CHECK(draw(streams, 24).targets.back() == 24);
  batch_sampler window(text_span(text).first(9), {.rows = 3, .length = 8});
  CHECK(draw(window, 24).targets.back() == 8);
  CHECK(says(message_of<mmrec::error>([&] {
               batch_sampler(text_span(text).first(24),
                             {.mode = sampling::streams, .rows = 3, .length = 8});
             }),
             {"batch_sampler: text", "3 x 8", "got 24"}));
  CHECK(says(message_of<mmrec::error>(
                 [&] { batch_sampler(text_span(text).first(8), {.rows = 3, .length = 8}); }),
             {"1 x 8", "windows", "got 8"}));
  CHECK(says(message_of<mmrec::error>([] { batch_sampler({}, {}); }), {"text", "got 0"}));
}

TEST_CASE("sampler: a resumed run sees the batches of an uninterrupted one", "[components]") {
  const auto text = counting_text(500);
  const auto mode = GENERATE(sampling::windows, sampling::streams);
  const sampler_options options{.mode = mode, .rows = 4, .length = 6, .seed = 9};
  batch_sampler whole(text, options);
  for (int step = 0; step < 37; ++step) draw(whole, 24);
  const std::string saved = to_string(whole.position());
  batch_sampler resumed(text, options);
  resumed.seek(parse_data_position(saved));
  CHECK(resumed.position() == whole.position());
  for (int step = 0; step < 50; ++step) REQUIRE(draw(resumed, 24) == draw(whole, 24));
}

TEST_CASE("sampler: a position of other data or options is refused", "[errors]") {
  auto text = counting_text(500);
  const sampler_options options{.mode = sampling::streams, .rows = 4, .length = 6, .seed = 9};
  batch_sampler sampler(text, options);
  draw(sampler, 24);
  const data_position here = sampler.position();
  const auto refused = [&](text_span other_text, const sampler_options& other) {
    batch_sampler target(other_text, other);
    const auto message = message_of<mmrec::error>([&] { target.seek(here); });
    CHECK(target.position().batch == 0);
    return says(message, {"batch_sampler::seek: position", here.source});
  };
  CHECK(refused(text, {.mode = sampling::windows, .rows = 4, .length = 6, .seed = 9}));
  CHECK(refused(text, {.mode = sampling::streams, .rows = 5, .length = 6, .seed = 9}));
  CHECK(refused(text, {.mode = sampling::streams, .rows = 4, .length = 7, .seed = 9}));
  CHECK(refused(text, {.mode = sampling::streams, .rows = 4, .length = 6, .seed = 8}));
  CHECK(refused(text_span(text).first(499), options));
  text[250] ^= 1;
  CHECK(refused(text, options));

  const char* const bad = GENERATE("", " ", "12", "12 ", " streams", "-1 streams", "1x streams",
                                   "99999999999999999999 streams");
  CAPTURE(bad);
  CHECK(says(message_of<mmrec::error>([&] { parse_data_position(bad); }),
             {"parse_data_position: text"}));
}

TEST_CASE("sampler: wrong sizes are refused before anything is drawn", "[errors]") {
  const auto text = counting_text(100);
  CHECK(says(message_of<mmrec::error>([&] { batch_sampler(text, {.rows = 0}); }),
             {"rows", "1 to 2^30", "got 0"}));
  CHECK(says(message_of<mmrec::error>([&] { batch_sampler(text, {.length = -1}); }),
             {"length", "got -1"}));
  CHECK(says(message_of<mmrec::error>(
                 [&] { batch_sampler(text, {.rows = std::int64_t{1} << 62, .length = 4}); }),
             {"rows", "got 4611686018427387904"}));
  batch_sampler sampler(text, {.rows = 2, .length = 8});
  std::vector<int> right(16, -1);
  std::vector<int> wrong(15, -1);
  CHECK(says(message_of<mmrec::error>([&] { sampler.next(std::span(right), std::span(wrong)); }),
             {"targets", "16 tokens", "got 15"}));
  CHECK(says(message_of<mmrec::error>([&] { sampler.next(std::span(wrong), std::span(right)); }),
             {"inputs"}));
  CHECK(right == std::vector<int>(16, -1));
  CHECK(sampler.position().batch == 0);
}

TEST_CASE("embedded text: every file, complete and in order", "[components]") {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(MMREC_TEST_EMBEDDED_DIR)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  REQUIRE(files.size() >= 10);
  std::string all;
  for (const auto& file : files) {
    const auto bytes = read_bytes("test", file);
    all.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  CHECK(all.size() > 8192);  // more than one piece
  CHECK(embedded_text() == all);
}

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

// --- plot.hpp, table.hpp -------------------------------------------------------------------------

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

TEST_CASE("plot: bars", "[components]") {
  const auto svg = bar_chart({.title = "t", .y_label = "GB/s"}, {"ours", "peer"},
                             {{"(8,64,64)", {4, 2}}, {"(8,128,64)", {3, not_a_number}}});
  CHECK(count_of(svg, "<title>ours, (8,64,64): 4</title>") == 1);
  CHECK(count_of(svg, "<title>peer, ") == 1);  // the other is NaN and left out
  CHECK(count_of(svg, ">(8,128,64)</text>") == 1);
  CHECK(count_of(svg, "nan") == 0);
  CHECK(count_of(bar_chart({.log_y = true}, {"a"}, {{"x", {0.001}}, {"y", {100}}}), "<title>a, ") ==
        2);
  CHECK(bar_chart({}, {}, {}).ends_with("</svg>\n"));
}

TEST_CASE("plot: lists that do not fit are refused", "[errors]") {
  CHECK(says(message_of<mmrec::error>([] { line_plot({}, {{"s", {1, 2}, {1}}}); }),
             {"line_plot: series 's'", "got 2"}));
  CHECK(says(message_of<mmrec::error>([] { bar_chart({}, {"a", "b"}, {{"g", {1}}}); }),
             {"bar_chart: group 'g'"}));
  CHECK(says(message_of<mmrec::error>([] { line_plot({.width = 10}, {}); }),
             {"200 x 150", "10 x 450"}));
}

TEST_CASE("table: aligned Markdown", "[components]") {
  const std::vector<table_row> rows = {{"(8,64,64)", "0.12"}, {"\xc3\xa4", "10"}};
  CHECK(markdown_table({"shape", "ms"}, rows) ==
        "| shape     |   ms |\n"
        "|:----------|-----:|\n"
        "| (8,64,64) | 0.12 |\n"
        "| \xc3\xa4         |   10 |\n");
  CHECK(says(message_of<mmrec::error>([&] { markdown_table({"shape"}, rows); }),
             {"markdown_table", "1 cells"}));
}

// --- config.hpp ----------------------------------------------------------------------------------

TEST_CASE("config: values in range are taken, from the line and from a file", "[components]") {
  options_under_test o;
  CHECK(o.error_of({"--dropout", "0", "--lr", "3e-4", "--decay", "0", "--size", "4096"}).empty());
  CHECK((o.dropout == 0 && o.lr == 3e-4 && o.decay == 0 && o.size == 4096));

  const scratch_dir dir;
  dir.write("c.toml", "# a comment\ndropout = 0.25\nsize=16\nflag=true\n");
  options_under_test p;
  CHECK(p.error_of({"--config", (dir / "c.toml").string(), "--size", "32"}).empty());
  CHECK((p.dropout == 0.25 && p.flag));
  CHECK(p.size == 32);  // the command line wins
  // What a program says it runs with can be run again.
  dir.write("d.toml", p.config);
  options_under_test q;
  CAPTURE(p.config);
  CHECK(q.error_of({"--config", (dir / "d.toml").string()}) == "");
  CHECK((q.dropout == 0.25 && q.flag && q.size == 32 && q.lr == 1e-3 && q.decay == 0.1));
}

TEST_CASE("config: values out of range are refused with the option and the range", "[errors]") {
  for (const char* value : {"1", "-0.1", "1.5", "nan", "inf", "x", "0.5x", ""}) {
    CAPTURE(value);
    options_under_test o;
    CHECK(says(o.error_of({"--dropout=" + std::string(value)}), {"--dropout"}));
    CHECK(o.dropout == 0.1);
  }
  options_under_test o;
  CHECK(says(o.error_of({"--dropout", "1"}), {"--dropout", "a rate in [0, 1)", "'1'"}));
  CHECK(says(o.error_of({"--lr", "0"}), {"--lr", "above 0"}));
  CHECK(says(o.error_of({"--lr", "inf"}), {"--lr", "finite"}));
  CHECK(says(o.error_of({"--decay=-1"}), {"--decay", "0 or above"}));
  for (const char* value : {"15", "4097", "16.5", "-16", "1e2", "99999999999999999999"}) {
    CAPTURE(value);
    CHECK(says(o.error_of({"--size=" + std::string(value)}),
               {"--size", "an integer from 16 to 4096", value}));
  }
}

TEST_CASE("config: files that are absent, unknown keys and bad values in them are refused",
          "[errors]") {
  const scratch_dir dir;
  const auto error_with = [&](std::string_view text) {
    dir.write("c.toml", text);
    options_under_test o;
    return o.error_of({"--config", (dir / "c.toml").string()});
  };
  CHECK(says(error_with("dropuot = 0.1\n"), {"dropuot"}));
  CHECK(says(error_with("dropout = 2\n"), {"--dropout", "[0, 1)"}));
  options_under_test o;
  CHECK(says(o.error_of({"--config", (dir / "absent.toml").string()}), {"absent.toml"}));
}

TEST_CASE("config: the checks as functions", "[errors]") {
  CHECK(check_rate("f", "rate", 0) == 0);
  CHECK(check_rate("f", "rate", 0.999) == 0.999);
  for (const double bad : {-1e-9, 1.0, not_a_number, infinity}) {
    CHECK(says(message_of<mmrec::error>([&] { check_rate("f", "rate", bad); }),
               {"f: rate: expected a rate in [0, 1)"}));
  }
  CHECK(check_positive("f", "lr", 1e-9) == 1e-9);
  for (const double bad : {0.0, -1.0, not_a_number, infinity}) {
    CHECK(says(message_of<mmrec::error>([&] { check_positive("f", "lr", bad); }),
               {"f: lr: expected a finite"}));
  }
  CHECK(check_size("f", "M", 16, 16, 64) == 16);
  CHECK(says(message_of<mmrec::error>([] { check_size("f", "M", 15, 16, 64); }),
             {"f: M: expected an integer from 16 to 64, got 15"}));
  CHECK(says(message_of<mmrec::error>([] { check_size("f", "M", 65, 16, 64); }), {"got 65"}));
}

// --- cpu.hpp -------------------------------------------------------------------------------------

TEST_CASE("cpu: this program runs on this CPU", "[components]") {
  isa_list list;
  find_isa(list);
  CHECK(missing_isa(list).empty());
  REQUIRE_NOTHROW(require_isa());
#if defined(__x86_64__)
  CHECK(list.count == 22);
  const auto avx2 = std::find_if(list.entries, list.entries + list.count,
                                 [](const auto& e) { return std::string_view(e.name) == "avx2"; });
  REQUIRE(avx2 != list.entries + list.count);
#ifdef __AVX2__
  CHECK(avx2->compiled);
#else
  CHECK_FALSE(avx2->compiled);
#endif
#endif
}

TEST_CASE("cpu: an instruction set that is missing is named", "[errors]") {
  const isa_list list = {{{"avx2", true, true},
                          {"avx512f", true, false},
                          {"avx512bw", true, false},
                          {"fma4", false, false}},
                         4};
  CHECK(missing_isa(list) == "avx512f, avx512bw");
  CHECK(says(message_of<mmrec::error>([&] { require_isa(list); }),
             {"require_isa", "without avx512f, avx512bw", "-march=x86-64-v2", "no fallback"}));
}

TEST_CASE("cpu: a backend that is not built is refused", "[errors]") {
  REQUIRE_NOTHROW(require_backend("reference"));
  REQUIRE_NOTHROW(require_backend("simd"));
  CHECK(says(message_of<mmrec::error>([] { require_backend("cuda"); }),
             {"require_backend: backend", "reference, simd", "no CUDA backend", "no fallback"}));
  CHECK(says(message_of<mmrec::error>([] { require_backend("SIMD"); }),
             {"'SIMD', which is no backend"}));
}
