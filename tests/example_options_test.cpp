// SPDX-License-Identifier: Apache-2.0
// The command line of the example programs, and the CPU that they run on.
#include "../examples/support/config.hpp"
#include "../examples/support/cpu.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

using namespace mmrec::examples;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

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
#if !defined(MMREC_EXAMPLES_CUDA)
  CHECK(says(message_of<mmrec::error>([] { require_backend("cuda"); }),
             {"require_backend: backend", "reference, simd", "no CUDA backend", "no fallback"}));
#endif
  CHECK(says(message_of<mmrec::error>([] { require_backend("SIMD"); }),
             {"'SIMD', which is no backend"}));
}
