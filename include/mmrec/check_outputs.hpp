// SPDX-License-Identifier: Apache-2.0
// What holds for the outputs of every call with several of them: each element has its own place,
// and no output shares memory with an input or with another output.
//
//   check_outputs("recurrence", std::tuple{argument{"h", h}, argument{"final", final}},
//                 std::tuple{argument{"z", z}, argument{"gamma", gamma}});
//
// Absent views count for nothing. Errors: mmrec::error with the two names.
#pragma once

#include <mmrec/check.hpp>

#include <tuple>

namespace mmrec {

/// A view and its name in messages.
template <class T, std::size_t Rank>
struct argument {
  const char* name;
  view<T, Rank> array;
};
template <class T, std::size_t Rank>
argument(const char*, const view<T, Rank>&) -> argument<T, Rank>;

namespace detail {

/// `first` against all others, then each of them against those that follow it.
template <class First, class... Rest>
void check_pairs(const char* function, const First& first, const Rest&... rest) {
  (check_disjoint(function, first.name, first.array, rest.name, rest.array), ...);
  if constexpr (sizeof...(Rest) > 0) check_pairs(function, rest...);
}

}  // namespace detail

/// An input that an output may be, in place: absent if it is.
template <class T, std::size_t Rank>
view<const T, Rank> unless_same(const view<const T, Rank>& input, const view<T, Rank>& output) {
  return same_layout(input, output) ? view<const T, Rank>{} : input;
}

template <class... Out, class... In>
void check_outputs(const char* function, const std::tuple<Out...>& outputs,
                   const std::tuple<In...>& inputs) {
  const auto check = [&](const auto& out) {
    check_distinct(function, out.name, out.array);
    std::apply(
        [&](const auto&... in) {
          (check_disjoint(function, out.name, out.array, in.name, in.array), ...);
        },
        inputs);
  };
  std::apply(
      [&](const auto&... out) {
        (check(out), ...);
        detail::check_pairs(function, out...);
      },
      outputs);
}

}  // namespace mmrec
