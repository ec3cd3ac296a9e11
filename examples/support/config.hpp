// SPDX-License-Identifier: Apache-2.0
// What all example programs share about their command lines (CLI11): a configuration file, ranges
// with clear messages, and one way out for every error.
//
//   int main(int argc, char** argv) {
//     return run_program([&] {
//       CLI::App app("Trains a model.");
//       add_config_file(app);                                     // --config FILE, TOML or INI
//       app.add_option("--dropout", dropout, "Rate")->check(rate());
//       if (const auto code = parse(app, argc, argv)) return *code;
//       ...
//     });
//   }
#pragma once

#include <mmrec/error.hpp>

#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace mmrec::examples {

/// A probability or fraction that must leave something: in [0, 1). NaN is outside.
inline double check_rate(std::string_view function, std::string_view argument, double value) {
  if (value >= 0 && value < 1) return value;
  char seen[32];
  std::snprintf(seen, sizeof seen, "%g", value);
  throw error(function, argument, "a rate in [0, 1)", seen);
}

/// A finite number above 0, such as a learning rate.
inline double check_positive(std::string_view function, std::string_view argument, double value) {
  if (value > 0 && std::isfinite(value)) return value;
  char seen[32];
  std::snprintf(seen, sizeof seen, "%g", value);
  throw error(function, argument, "a finite number above 0", seen);
}

/// An integer in [low, high], such as a size.
inline std::int64_t check_size(std::string_view function, std::string_view argument,
                               std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return value;
  throw error(function, argument,
              "an integer from " + std::to_string(low) + " to " + std::to_string(high),
              std::to_string(value));
}

namespace detail {

/// A validator from a test of the parsed value; `wanted` stands in --help and in the message.
template <class Number, std::predicate<Number> Test>
CLI::Validator number_validator(std::string wanted, std::string help, Test test) {
  return CLI::Validator(
      [wanted = std::move(wanted), test](std::string& text) {
        Number value{};
        const char* end = text.data() + text.size();
        const auto [stop, code] = std::from_chars(text.data(), end, value);
        const bool good = code == std::errc() && stop == end && test(value);
        return good ? std::string() : "expected " + wanted + ", got '" + text + "'";
      },
      std::move(help));
}

}  // namespace detail

/// Option check: a rate in [0, 1).
inline CLI::Validator rate() {
  return detail::number_validator<double>("a rate in [0, 1)", "in [0, 1)",
                                          [](double x) { return x >= 0 && x < 1; });
}

/// Option check: a finite number above 0.
inline CLI::Validator positive() {
  return detail::number_validator<double>("a finite number above 0", "> 0",
                                          [](double x) { return x > 0 && std::isfinite(x); });
}

/// Option check: a finite number, 0 or above.
inline CLI::Validator non_negative() {
  return detail::number_validator<double>("a finite number, 0 or above", ">= 0",
                                          [](double x) { return x >= 0 && std::isfinite(x); });
}

/// Option check: an integer in [low, high].
inline CLI::Validator size_in(std::int64_t low, std::int64_t high) {
  const std::string range = std::to_string(low) + " to " + std::to_string(high);
  return detail::number_validator<std::int64_t>(
      "an integer from " + range, "[" + range + "]",
      [=](std::int64_t x) { return x >= low && x <= high; });
}

/// Adds --config FILE; call it before the other options are added, since it also makes them show
/// their defaults in --help. The command line wins over the file; a key that no option has is an
/// error, since it is most likely a misspelt one.
inline CLI::Option* add_config_file(CLI::App& app) {
  app.option_defaults()->always_capture_default();
  app.allow_config_extras(CLI::config_extras_mode::error);
  return app.set_config("--config", "",
                        "Read options from a TOML or INI file, one 'name = value' per line");
}

/// All options as a file that --config reads.
inline std::string effective_config(const CLI::App& app) { return app.config_to_str(true, false); }

/// Parses; a value means that the program ends with it: --help, --version, or a wrong command line.
inline std::optional<int> parse(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  return std::nullopt;
}

/// Runs a program's body: an exception, or output that could not be written, becomes one line on
/// standard error and exit code 1.
template <std::invocable Body>
int run_program(Body&& body) {
  try {
    const int code = body();
    const bool earlier = std::ferror(stdout) != 0;
    if (std::fflush(stdout) == 0 && !earlier) return code;
    std::fputs("error: cannot write to standard output\n", stderr);
  } catch (const std::bad_alloc&) {
    std::fputs("error: not enough memory\n", stderr);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
  }
  return 1;
}

}  // namespace mmrec::examples
