// SPDX-License-Identifier: Apache-2.0
// The version of mmrec, for the preprocessor and for the program.
#pragma once

#include <string_view>

// The only place that holds the version: CMakeLists.txt and conanfile.py read these three lines.
#define MMREC_VERSION_MAJOR 0
#define MMREC_VERSION_MINOR 1
#define MMREC_VERSION_PATCH 0

// One comparable number: 1.2.3 is 10203.
#define MMREC_VERSION \
  (MMREC_VERSION_MAJOR * 10000 + MMREC_VERSION_MINOR * 100 + MMREC_VERSION_PATCH)

#define MMREC_DETAIL_STRING(x) #x
#define MMREC_DETAIL_JOIN(major, minor, patch) \
  MMREC_DETAIL_STRING(major) "." MMREC_DETAIL_STRING(minor) "." MMREC_DETAIL_STRING(patch)

namespace mmrec {

inline constexpr std::string_view version_string =
    MMREC_DETAIL_JOIN(MMREC_VERSION_MAJOR, MMREC_VERSION_MINOR, MMREC_VERSION_PATCH);

}  // namespace mmrec

#undef MMREC_DETAIL_JOIN
#undef MMREC_DETAIL_STRING
