// SPDX-License-Identifier: Apache-2.0
// Text as training data, the batches drawn from it, and text embedded in programs.
#include "../examples/support/text_data.hpp"
#include "embedded_text.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"

#include <unistd.h>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

using namespace mmrec::examples;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

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

}  // namespace

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
  // What gave the path.
  for (const char* name : {"empty.txt", "absent.txt", "."})
    CHECK(says(message_of<mmrec::error>([&] { load_text(dir / name, "--data"); }),
               {"load_text: --data: expected", name}));
}

TEST_CASE("text: a file that may not be read is refused", "[errors]") {
  const scratch_dir dir;
  dir.write("secret.txt", "x");
  using std::filesystem::perms;
  std::filesystem::permissions(dir.path(), perms::owner_all | perms::others_exec);
  std::filesystem::permissions(dir / "secret.txt", perms::none);
  // For root every file is readable, so it is somebody else for the length of the call.
  const bool root = ::geteuid() == 0;
  constexpr uid_t nobody = 65534;
  if (root) REQUIRE(::seteuid(nobody) == 0);
  const auto message = message_of<mmrec::error>([&] { load_text(dir / "secret.txt"); });
  if (root) REQUIRE(::seteuid(0) == 0);
  CHECK(says(message, {"load_text: path", "secret.txt'", "Permission denied"}));
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
