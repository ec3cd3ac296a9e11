// SPDX-License-Identifier: Apache-2.0
// A Markdown table whose source is aligned too: the first column to the left, the others to the
// right.
//
//   markdown_table({"shape", "ms"}, {{"(8,64,64)", "0.12"}})
#pragma once

#include <mmrec/error.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mmrec::examples {

using table_row = std::vector<std::string>;

/// Columns on the terminal: continuation bytes of UTF-8 take none.
inline std::size_t text_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

inline std::string markdown_table(const table_row& header, std::span<const table_row> rows) {
  std::vector<std::size_t> width;
  for (const auto& cell : header) width.push_back(std::max<std::size_t>(3, text_width(cell)));
  for (const table_row& row : rows) {
    if (row.size() != header.size()) {
      throw error("markdown_table", "rows", std::to_string(header.size()) + " cells in each",
                  std::to_string(row.size()));
    }
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], text_width(row[i]));
  }
  std::string text;
  const auto line = [&](const table_row& row) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string pad(width[i] - text_width(row[i]), ' ');
      text += i == 0 ? "| " + row[i] + pad : " | " + pad + row[i];
    }
    text += " |\n";
  };
  line(header);
  for (std::size_t i = 0; i < width.size(); ++i) {
    text +=
        i == 0 ? "|:" + std::string(width[i] + 1, '-') : "|" + std::string(width[i] + 1, '-') + ":";
  }
  text += "|\n";
  for (const table_row& row : rows) line(row);
  return text;
}

}  // namespace mmrec::examples
