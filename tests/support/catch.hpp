// SPDX-License-Identifier: Apache-2.0
// Catch2 2.13 and 3 behind one include. Tests use what both have: TEST_CASE, TEMPLATE_TEST_CASE,
// SECTION, GENERATE, CAPTURE, REQUIRE and CHECK, their _THAT forms and Catch::Matchers::Within*.
#pragma once

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#else
#include <catch2/catch.hpp>
#pragma GCC poison Approx  // which 3 has under another name
#endif
