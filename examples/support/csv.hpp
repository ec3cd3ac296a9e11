// SPDX-License-Identifier: Apache-2.0
// Metrics of a run as CSV: the header once, every row on the disk's way as soon as it is complete.
// A resumed run cuts the rows that its checkpoint does not know, then goes on: no step appears
// twice.
//
//   csv_writer log("metrics.csv", {"step", "loss"});  // a new run: must not exist
//   log.row(1, 4.5);
//   csv_writer more("metrics.csv", {"step", "loss"}, resume_at{1500});  // later rows go away
//   more.row(1501, 2.25);
//
// Errors name the file and the constructor's last argument, the option that gave it.
#pragma once

#include "file.hpp"

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace mmrec::examples {

/// The last step that a resumed run keeps.
struct resume_at {
  std::int64_t step = 0;
};

/// What a new run does with a file that is there already.
enum class existing { refuse, replace };

/// Shortest text that reads back as the same number: "0.1", "nan", "-inf".
template <class T>
  requires(std::floating_point<T> || std::integral<T>)
std::string number_text(T value) {
  char buffer[64];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

/// A text field, quoted as in RFC 4180 when it has to be.
inline std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return std::string(text);
  std::string field = "\"";
  for (const char c : text) field.append(c == '"' ? 2 : 1, c);
  return field + '"';
}

/// Rows of a CSV file whose first column is the step, an integer that does not decrease.
class csv_writer {
 public:
  csv_writer(std::filesystem::path path, const std::vector<std::string>& columns,
             existing policy = existing::refuse, const char* argument = "path")
      : csv_writer(std::move(path), columns,
                   O_CREAT | (policy == existing::refuse ? O_EXCL : O_TRUNC), argument) {
    write(header_);
  }

  csv_writer(std::filesystem::path path, const std::vector<std::string>& columns, resume_at last,
             const char* argument = "path")
      : csv_writer(keep_until(std::move(path), columns, last.step, argument), columns, 0,
                   argument) {}

  const std::filesystem::path& path() const { return path_; }

  /// One row: numbers or text, as many as there are columns. One write, so a killed process leaves
  /// whole rows.
  template <class... Values>
  void row(const Values&... values) {
    if (sizeof...(values) != columns_) {
      throw error("csv_writer::row", "values", std::to_string(columns_) + " for " + quoted(path_),
                  std::to_string(sizeof...(values)));
    }
    std::string line;
    ((line += field(values), line += ','), ...);
    line.back() = '\n';
    write(line);
  }

 private:
  csv_writer(std::filesystem::path path, const std::vector<std::string>& columns, int flags,
             const char* argument)
      : path_(std::move(path)), header_(header_of(columns)), columns_(columns.size()) {
    fd_ = file_descriptor(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | flags, 0666));
    if (!fd_) {
      throw error("csv_writer", argument,
                  "a file that can be " + std::string(flags & O_EXCL ? "created" : "written"),
                  quoted(path_) + ": " + system_message(errno));
    }
  }

  static std::string header_of(const std::vector<std::string>& columns) {
    if (columns.empty()) throw error("csv_writer", "columns", "at least one", "none");
    std::string line;
    for (const auto& name : columns) line += csv_field(name) + ',';
    line.back() = '\n';
    return line;
  }

  /// Rewrites the file with the header and the rows up to `last`. A row that was cut off by the end
  /// of the process has no newline and goes away too.
  static std::filesystem::path keep_until(std::filesystem::path path,
                                          const std::vector<std::string>& columns,
                                          std::int64_t last, const char* argument) {
    const std::string header = header_of(columns);
    std::string kept = header;
    if (std::filesystem::exists(path)) {
      const auto bytes = read_bytes("csv_writer", path, argument);
      std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (!header.starts_with(rest) &&
          !rest.starts_with(header)) {  // the former: cut off in the header
        throw error("csv_writer", argument,
                    "a file with the header '" + header.substr(0, header.size() - 1) + "'",
                    quoted(path) + " with '" +
                        std::string(rest.substr(0, rest.find('\n'))).substr(0, 80) + "'");
      }
      rest.remove_prefix(std::min(rest.size(), header.size()));
      for (std::size_t end = 0; (end = rest.find('\n')) != rest.npos; rest.remove_prefix(end + 1)) {
        std::int64_t step = 0;
        const auto [stop, code] = std::from_chars(rest.data(), rest.data() + end, step);
        if (code != std::errc() || (*stop != ',' && *stop != '\n')) {
          throw error("csv_writer", argument, "rows that begin with a step",
                      quoted(path) + " with '" +
                          std::string(rest.substr(0, std::min<std::size_t>(end, 80))) + "'");
        }
        if (step <= last) kept += rest.substr(0, end + 1);
      }
    }
    write_text_atomically(path, kept, argument);
    return path;
  }

  template <class T>
  static std::string field(const T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
      return number_text(value);
    } else {
      return csv_field(value);
    }
  }

  void write(std::string_view line) {
    write_all("csv_writer", path_, fd_.get(), std::as_bytes(std::span(line)));
  }

  std::filesystem::path path_;
  std::string header_;
  std::size_t columns_;
  file_descriptor fd_;
};

}  // namespace mmrec::examples
