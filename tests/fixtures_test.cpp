// SPDX-License-Identifier: Apache-2.0
// The reference data as such: every file is of a kind that some test runs, reads back as its index
// says, and the check that compares with it can fail.
#include "support/fixtures.hpp"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/npz_writer.hpp"
#include "support/scratch_dir.hpp"

namespace {

using namespace mmrec::testing;
namespace fs = std::filesystem;

// One call with an output, a gradient and a gradient that is rounding only.
npz sample() {
  return {"sample_1.npz", npz_bytes({
                              make_member<float>("in/x", {2, 2}, {1, 2, 3, 4}),
                              make_member<double>("f64/run/y", {2, 2}, {1, 2, 3, 4}),
                              make_member<float>("f32/run/y", {2, 2}, {1, 2, 3, 4.00001F}),
                              make_member<double>("f64/run/grad/in/x", {2, 2}, {1, 1e6, 1e-6, 0}),
                              make_member<double>("f64/run/grad/param/b", {1}, {1e-20}),
                              make_member<float>("f32/only", {1}, {8}),
                          })};
}

}  // namespace

TEST_CASE("fixtures: the kind is the longest that fits", "[components][fixture_support]") {
  CHECK(fixture_kind("cumprod_2x8x128x64_halves.npz") == "cumprod");
  CHECK(fixture_kind("mdi_D16_B3.npz") == "mdi");
  CHECK(fixture_kind("mdi_saturated_D16_B3_T7.npz") == "mdi");
  CHECK(fixture_kind("mdi_uboo_D16_B3_T7.npz") == "mdi_uboo");
  CHECK(fixture_kind("block_hem_D32_B2_T12.npz") == "block");
  CHECK(fixture_kind("block_decode_D32_B2_T5.npz") == "block_decode");
  CHECK(fixture_kind("linear_relu_4x3x5_bias.npz") == "linear_relu");
  CHECK(fixture_kind("cumprods_1x2.npz").empty());
  CHECK(fixture_kind("cumprod.npz").empty());
  CHECK(fixture_kind("linear_gelu_4x3.npz").empty());
}

TEST_CASE("fixtures: every file is of a known kind", "[components][fixtures]") {
  for (const fixture_file& file : all_fixture_files(fixture_directories())) {
    CAPTURE(file.path.string());
    CHECK_FALSE(file.kind().empty());
  }
}

TEST_CASE("fixtures: the committed files cover every kind", "[components][fixtures]") {
  std::map<std::string, int, std::less<>> files;
  for (const fixture_file& file : all_fixture_files(fixture_directories(""))) {
    ++files[std::string(file.kind())];
  }
  for (const std::string_view kind : fixture_kinds) {
    CAPTURE(kind);
    CHECK(files[std::string(kind)] > 0);
  }
  std::uintmax_t bytes = 0;  // what every clone carries
  for (const auto& entry : fs::directory_iterator(MMREC_TEST_FIXTURES_DIR)) {
    bytes += entry.file_size();
  }
  CHECK(bytes < 4'000'000);
}

TEST_CASE("fixtures: every file reads, and its reference agrees with itself",
          "[components][fixtures]") {
  for (const fixture_file& file : all_fixture_files(fixture_directories())) {
    CAPTURE(file.path.string());
    fixture_ledger ledger{npz(file.path)};
    for (const std::string& name : ledger.data().names()) {
      CAPTURE(name);
      const bool result = name.starts_with("f64/") || name.starts_with("f32/");
      const bool given =
          name.starts_with("in/") || name.starts_with("param/") || name.starts_with("R/");
      CHECK((result || given));
      if (!result) continue;
      const auto values = ledger.data().array(name).as<double>();
      for (const auto& comparison : ledger.compare(name.substr(4), values)) {
        if (comparison.array == name) CHECK(comparison.error == 0);
      }
    }
    CHECK(ledger.never_compared().empty());
  }
}

TEST_CASE("fixtures: index.tsv lists the arrays of its files", "[components][fixtures]") {
  int indices = 0;
  for (const fs::path& directory : fixture_directories()) {
    std::ifstream index(directory / "index.tsv");
    if (!index) continue;
    ++indices;
    std::string line;
    std::getline(index, line);
    CHECK(line == "file\tarray\tdtype\tshape");
    std::map<std::string, std::vector<std::string>> listed;  // file: "array\tdtype\tshape"
    while (std::getline(index, line)) {
      const std::size_t tab = line.find('\t');
      REQUIRE(tab != std::string::npos);
      listed[line.substr(0, tab)].push_back(line.substr(tab + 1));
    }
    for (const auto& [name, lines] : listed) {
      CAPTURE(directory.string(), name);
      const npz file(directory / name);
      std::vector<std::string> seen;
      for (const std::string& array_name : file.names()) {
        const npy_array& array = file.array(array_name);
        std::string entry = array_name + '\t' + to_string(array.dtype) + '\t';
        for (std::size_t i = 0; i < array.shape.size(); ++i) {
          entry += (i > 0 ? "," : "") + std::to_string(array.shape[i]);
        }
        seen.push_back(entry);
      }
      CHECK(seen == lines);
    }
    CHECK_FALSE(listed.empty());
  }
  CHECK(indices > 0);  // tests/fixtures has one
}

TEST_CASE("fixtures: directories by environment", "[components][fixture_support][errors]") {
  const fs::path committed = MMREC_TEST_FIXTURES_DIR;
  CHECK(fixture_directories("") == std::vector<fs::path>{committed});
  CHECK(fixture_directories("a:/b c:") == std::vector<fs::path>{committed, "a", "/b c"});
  CHECK(fixture_directories("::a") == std::vector<fs::path>{committed, "a"});

  const scratch_dir first;
  const scratch_dir second;
  CHECK(
      says(message_of<std::exception>([&] { (void)all_fixture_files({first.path() / "missing"}); }),
           {"no such directory: " + (first.path() / "missing").string()}));
  CHECK(says(message_of<std::exception>([&] { (void)all_fixture_files({first.path()}); }),
             {"no .npz file in: " + first.path().string()}));

  first.write("mdi_1.npz", "same");
  first.write("cumprod_1.npz", "one");
  first.write("index.tsv", "no fixture");
  second.write("mdi_1.npz", "same");
  second.write("cumprod_1.npz", "two");
  const auto files = all_fixture_files({first.path(), second.path()});
  REQUIRE(files.size() == 3);  // mdi_1 once, the two different cumprod_1 both
  CHECK(files[0].name() == "cumprod_1.npz");
  CHECK(files[1].name() == "cumprod_1.npz");
  CHECK(files[2].name() == "mdi_1.npz");
  CHECK(files[2].kind() == "mdi");
  CHECK(says(message_of<std::exception>([] { (void)fixture_files("no_such_kind"); }),
             {"of kind: no_such_kind"}));
}

TEST_CASE("fixtures: tolerances and scales of the ledger", "[components][fixture_support]") {
  fixture_ledger ledger(sample());
  const double between = std::abs(double{4.00001F} - 4) / 4;
  CHECK(ledger.reference_distance() == between);  // 2.4e-6, so 10 d exceeds 2e-5
  const double single = 10 * between;
  CHECK(ledger.never_compared() == std::vector<std::string>{"f32/only", "f32/run/y",
                                                            "f64/run/grad/in/x",
                                                            "f64/run/grad/param/b", "f64/run/y"});

  // Both precisions are compared, and only the named result is ticked off.
  const auto y = ledger.compare<float>("run/y", {1, 2, 3, 4});
  REQUIRE(y.size() == 2);
  CHECK(y[0].array == "f64/run/y");
  CHECK(y[0].error == 0);
  CHECK(y[0].tolerance == single);
  CHECK(y[1].array == "f32/run/y");
  CHECK(y[1].error == between);
  CHECK(y[1].tolerance == single + between);
  CHECK(ledger.never_compared().size() == 3);

  // double is held to 1e-10 of f64/, but where only f32/ exists to float's tolerance.
  CHECK(ledger.compare<double>("run/y", {1, 2, 3, 4 + 3e-10})[0].passed());
  CHECK_FALSE(ledger.compare<double>("run/y", {1, 2, 3, 4 + 5e-10})[0].passed());
  CHECK(ledger.compare<double>("only", {8 * (1 + 0.9 * single)})[0].passed());
  CHECK_FALSE(ledger.compare<double>("only", {8 * (1 + 1.1 * single)})[0].passed());

  // By array the small row hides behind the large one; by rows it does not.
  CHECK(ledger.compare<float>("run/grad/in/x", {1, 1e6F, 0, 0})[0].passed());
  CHECK_FALSE(
      ledger.compare<float>("run/grad/in/x", {1, 1e6F, 0, 0}, fixture_scale::rows)[0].passed());
  // A gradient of rounding size is measured by the largest gradient of its call.
  CHECK(ledger.compare<float>("run/grad/param/b", {1e-3F})[0].error == double{1e-3F} / 1e6);
  CHECK(ledger.never_compared().empty());

  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(ledger.compare<float>("run/y", {1, 2, 3, nan})[0].passed());
  CHECK(says(message_of<std::exception>([&] { (void)ledger.compare<float>("run/y", {1, 2}); }),
             {"sample_1.npz: f64/run/y: expected 4 values, seen 2"}));
  CHECK(says(message_of<std::exception>([&] { (void)ledger.compare<float>("run/z", {1, 2}); }),
             {"sample_1.npz: holds neither f64/run/z nor f32/run/z"}));
}

TEST_CASE("fixtures: a zero reference asks for exact zeros", "[components][fixture_support]") {
  fixture_ledger ledger(npz("zero_1.npz", npz_bytes({make_member<double>("f64/y", {2}, {0, 0})})));
  CHECK(ledger.compare<float>("y", {0, 0})[0].passed());
  CHECK_FALSE(ledger.compare<float>("y", {0, 1e-30F})[0].passed());
}

TEST_CASE("fixtures: files that cannot judge are refused",
          "[components][fixture_support][errors]") {
  const npz no_result("a_1.npz", npz_bytes({make_member<float>("in/x", {1}, {1})}));
  CHECK(says(message_of<std::invalid_argument>([&] { fixture_ledger{no_result}; }),
             {"a_1.npz: no array under f64/ or f32/"}));
  const npz two_truths("a_1.npz", npz_bytes({make_member<float>("f32/y", {1}, {1}),
                                             make_member<double>("f64/y", {1}, {1.1})}));
  CHECK(says(message_of<std::invalid_argument>([&] { fixture_ledger{two_truths}; }),
             {"a_1.npz: f32/ and f64/ differ by 0.09"}));
}

// These fail, as they must: Catch2 turns [!shouldfail] around.
TEST_CASE("fixtures: a result that was never compared fails", "[components][!shouldfail]") {
  fixture_check check(sample());
  check.compare<double>("run/y", {1, 2, 3, 4});
}

TEST_CASE("fixtures: a wrong result fails", "[components][!shouldfail]") {
  fixture_check check(sample());
  check.compare<float>("only", {8});
  check.compare<float>("run/grad/param/b", {0});
  check.compare<float>("run/grad/in/x", {1, 1e6F, 0, 0});
  check.compare<float>("run/y", {1, 2, 3, 4.01F});
}

TEST_CASE("fixtures: a complete run passes", "[components][fixture_support]") {
  fixture_check check(sample());
  CHECK(check.expects("run/y"));
  CHECK_FALSE(check.expects("run/z"));
  check.compare<float>("only", {8});
  check.compare<float>("run/grad/param/b", {0});
  check.compare<float>("run/grad/in/x", {1, 1e6F, 1e-6F, 0});
  check.compare<float>("run/y", {1, 2, 3, 4});
}
