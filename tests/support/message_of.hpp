// SPDX-License-Identifier: Apache-2.0
// The text of the exception that a call must throw, for tests of what it says.
//
//   CHECK(says(message_of<mmrec::error>([&] { load_text(path); }), {"load_text", "empty"}));
#pragma once

#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

/// Calls f; what() of the Exception it throws. No exception, or another one, is a failure.
template <class Exception, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Exception& e) {
    return e.what();
  }
  throw std::logic_error("the call was expected to throw, and did not");
}

/// Whether the message has all the parts; shows it where it has not.
inline bool says(std::string_view message, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) {
    if (message.find(part) == message.npos) {
      std::fprintf(stderr, "the message lacks '%.*s':\n  %.*s\n", static_cast<int>(part.size()),
                   part.data(), static_cast<int>(message.size()), message.data());
      return false;
    }
  }
  return true;
}
