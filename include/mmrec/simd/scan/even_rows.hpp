// SPDX-License-Identifier: Apache-2.0
// Rows the same distance apart, one per lane, four lanes at a time: the processor adds one or two
// distances to a pointer by itself, so four rows need but a pointer, the distance and three of it,
// of which the latter two serve all rows. A pointer for each row of each stream would not fit into
// the registers.
#pragma once

#include <mmrec/simd/batch.hpp>
#include <mmrec/view.hpp>

#include <algorithm>
#include <array>
#include <cstdint>

namespace mmrec::simd::detail {

/// Which of `live` <= W rows each of W lanes takes; spare lanes repeat some. Every four lanes are
/// some row, `one` and twice `one` behind it, and `three` behind it.
template <std::size_t W>
struct lane_rows {
  index_t live;

  MMREC_INLINE index_t one() const { return live >= (W < 3 ? index_t{W} : 3) ? 1 : 0; }
  MMREC_INLINE index_t three() const { return live > 3 ? 3 : live - 1; }
  /// The first of four lanes' rows.
  MMREC_INLINE index_t four(std::size_t lane) const {
    const index_t first = static_cast<index_t>(lane), last = live > 4 ? live - 4 : 0;
    return first < last ? first : last;
  }
  MMREC_INLINE index_t operator()(std::size_t lane) const {
    return four(lane / 4 * 4) + (lane % 4 == 3 ? three() : static_cast<index_t>(lane % 4) * one());
  }
};

/// The bytes between rows of four lanes. All streams of rows share them.
struct row_distances {
  index_t one, three;

  template <std::size_t W>
  MMREC_INLINE row_distances(const lane_rows<W>& lane, index_t apart_bytes)
      : one(lane.one() * apart_bytes), three(lane.three() * apart_bytes) {}
};

/// Where W of them are, from some lane on.
template <class T, std::size_t W>
class even_rows {
 public:
  even_rows() = default;
  /// The group's first row is at `first`.
  template <std::size_t All>
  MMREC_INLINE even_rows(T* first, index_t apart, const lane_rows<All>& lane, std::size_t from) {
    for (std::size_t i = 0; i < fours_.size(); ++i)
      fours_[i] = first + lane.four(from + 4 * i) * apart;
  }

  /// Pointers to the rows.
  struct pointers {
    std::array<T*, (W + 3) / 4> fours;
    row_distances apart;
    MMREC_INLINE T* operator[](std::size_t j) const {
      const index_t bytes = j % 4 == 3 ? apart.three : static_cast<index_t>(j % 4) * apart.one;
      return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(fours[j / 4]) +
                                  static_cast<std::uintptr_t>(bytes));
    }
  };
  MMREC_INLINE pointers at(const row_distances& apart) const { return {fours_, apart}; }

  /// Moves along the rows. GCC may not make a pointer for each of them.
  MMREC_INLINE void move(index_t steps) {
    for (auto& p : fours_) {
      p += steps;
      asm("" : "+r"(p));
    }
  }

 private:
  std::array<T*, (W + 3) / 4> fours_{};
};

}  // namespace mmrec::simd::detail
