// SPDX-License-Identifier: Apache-2.0
// The reference data: which files there are, and the check that a test compared all of one.
//
//   for (const fixture_file& file : fixture_files("cumprod")) {
//     fixture_check check(file);
//     ... run on check.data().array("in/x").as<float>() ...
//     check.compare("y", y);                  // with f64/y and f32/y, whichever the file has
//     check.compare("grad/in/x", dx);
//   }                                         // fails if a result of the file was not compared
//
// Files lie in tests/fixtures and in every directory that the environment variable MMREC_FIXTURES
// names (separated by colons). A test takes all files of a kind, so that further files are checked
// without a change here. Conventions and tolerances: tests/fixtures/README.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "fixture_ledger.hpp"
#include "npz.hpp"

#ifndef MMREC_TEST_FIXTURES_DIR
#error "define MMREC_TEST_FIXTURES_DIR as the path of tests/fixtures"
#endif

namespace mmrec::testing {

// Every kind of file there is; the name of a file begins with its kind and an underscore.
inline constexpr std::array<std::string_view, 13> fixture_kinds{
    "cumprod",   "logcumsumexp", "linrec", "rmsnorm",      "mdi",   "mdi_uboo",   "hds",
    "attention", "recurrence",   "block",  "block_decode", "model", "linear_relu"};

// The longest kind that fits ("mdi_uboo_D16.npz" is no "mdi"); empty when none does.
inline std::string_view fixture_kind(std::string_view file_name) {
  std::string_view best;
  for (const std::string_view kind : fixture_kinds) {
    if (file_name.starts_with(kind) && file_name.substr(kind.size()).starts_with('_') &&
        kind.size() > best.size()) {
      best = kind;
    }
  }
  return best;
}

struct fixture_file {
  std::filesystem::path path;
  std::string name() const { return path.filename().string(); }
  std::string_view kind() const { return fixture_kind(path.filename().string()); }
};

// tests/fixtures and the directories of a list separated by colons.
inline std::vector<std::filesystem::path> fixture_directories(std::string_view extra) {
  std::vector<std::filesystem::path> directories{MMREC_TEST_FIXTURES_DIR};
  while (!extra.empty()) {
    const std::size_t colon = std::min(extra.find(':'), extra.size());
    if (colon > 0) directories.emplace_back(extra.substr(0, colon));
    extra.remove_prefix(std::min(colon + 1, extra.size()));
  }
  return directories;
}
inline std::vector<std::filesystem::path> fixture_directories() {
  const char* extra = std::getenv("MMREC_FIXTURES");
  return fixture_directories(extra == nullptr ? "" : extra);
}

namespace detail {

inline bool same_content(const std::filesystem::path& a, const std::filesystem::path& b) {
  if (std::filesystem::file_size(a) != std::filesystem::file_size(b)) return false;
  std::ifstream in_a(a, std::ios::binary);
  std::ifstream in_b(b, std::ios::binary);
  using bytes = std::istreambuf_iterator<char>;
  return std::equal(bytes(in_a), bytes(), bytes(in_b), bytes());
}

}  // namespace detail

// All .npz files, ordered by name. A file that lies in two directories counts once; two different
// files of one name count as two. A directory that is not there, or that holds no .npz, throws:
// whoever named it meant to test something.
inline std::vector<fixture_file> all_fixture_files(
    const std::vector<std::filesystem::path>& directories) {
  std::multimap<std::string, fixture_file> found;
  for (const std::filesystem::path& directory : directories) {
    if (!std::filesystem::is_directory(directory)) {
      throw std::runtime_error("fixtures: no such directory: " + directory.string());
    }
    bool any = false;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.path().extension() != ".npz") continue;
      any = true;
      const fixture_file file{entry.path()};
      const auto [first, last] = found.equal_range(file.name());
      const bool known = std::any_of(first, last, [&](const auto& other) {
        return detail::same_content(other.second.path, file.path);
      });
      if (!known) found.emplace(file.name(), file);
    }
    if (!any) throw std::runtime_error("fixtures: no .npz file in: " + directory.string());
  }
  std::vector<fixture_file> files;
  for (auto& [name, file] : found) files.push_back(std::move(file));
  return files;
}

// The files of one kind; there is at least one, or this throws.
inline std::vector<fixture_file> fixture_files(std::string_view kind) {
  std::vector<fixture_file> files = all_fixture_files(fixture_directories());
  std::erase_if(files, [&](const fixture_file& file) { return file.kind() != kind; });
  if (files.empty()) throw std::runtime_error("fixtures: no file of kind: " + std::string(kind));
  return files;
}

// Compares the results of one run on one file, each failure a failed CHECK, and insists at its end
// that every result of the file was compared.
class fixture_check {
 public:
  explicit fixture_check(const fixture_file& file) : ledger_(npz(file.path)) {}
  explicit fixture_check(npz data) : ledger_(std::move(data)) {}
  fixture_check(const fixture_check&) = delete;
  fixture_check& operator=(const fixture_check&) = delete;
  // Not while an exception passes through: the test has failed already, for its own reason.
  ~fixture_check() noexcept(false) {
    if (!finished_ && std::uncaught_exceptions() == exceptions_) finish();
  }

  const npz& data() const { return ledger_.data(); }
  bool expects(std::string_view result) const { return ledger_.expects(result); }

  // `result` is a name without its precision, such as "y" or "fwd_ctx/grad/in/z".
  template <class T>
  void compare(std::string_view result, const std::vector<T>& actual,
               fixture_scale scale = fixture_scale::array) {
    for (const fixture_comparison& comparison : ledger_.compare(result, actual, scale)) {
      INFO(data().file() << ": " << comparison.array << ": error " << comparison.error
                         << ", tolerance " << comparison.tolerance);
      CHECK(comparison.passed());
    }
  }

  void finish();

 private:
  fixture_ledger ledger_;
  int exceptions_ = std::uncaught_exceptions();
  bool finished_ = false;
};

// Outside of its class: there nvcc 13.0 with the headers of GCC 13 and Catch2 3 never finished a
// CHECK.
inline void fixture_check::finish() {
  finished_ = true;
  std::string left;
  for (const std::string& name : ledger_.never_compared()) left += " " + name;
  INFO(data().file() << ": these results were never compared:" << left);
  CHECK(left.empty());
}

}  // namespace mmrec::testing
