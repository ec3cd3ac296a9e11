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

  MMREC_INLINE index_t one() const { return live >= std::min<index_t>(3, W) ? 1 : 0; }
  MMREC_INLINE index_t three() const { return std::min<index_t>(3, live - 1); }
  MMREC_INLINE index_t operator()(std::size_t lane) const {
    const index_t first =
        std::min(static_cast<index_t>(lane / 4 * 4), std::max<index_t>(live - 4, 0));
    return first + (lane % 4 == 3 ? three() : static_cast<index_t>(lane % 4) * one());
  }
};

/// Where W of them are, from some lane on.
template <class T, std::size_t W>
class even_rows {
 public:
  even_rows() = default;
  /// The group's first row is at `first`.
  template <std::size_t All>
  MMREC_INLINE even_rows(T* first, index_t apart, const lane_rows<All>& lane, std::size_t from)
      : one_(lane.one() * apart * index_t{sizeof(T)}),
        three_(lane.three() * apart * index_t{sizeof(T)}) {
    for (std::size_t i = 0; i < fours_.size(); ++i) fours_[i] = first + lane(from + 4 * i) * apart;
  }

  MMREC_INLINE T* operator[](std::size_t j) const {
    const index_t bytes = j % 4 == 3 ? three_ : static_cast<index_t>(j % 4) * one_;
    return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(fours_[j / 4]) +
                                static_cast<std::uintptr_t>(bytes));
  }
  /// Moves along the rows. GCC may not make a pointer for each of them.
  template <index_t Steps>
  MMREC_INLINE void move() {
    for (auto& p : fours_) {
      p += Steps;
      asm("" : "+r"(p));
    }
  }

 private:
  std::array<T*, (W + 3) / 4> fours_{};
  index_t one_ = 0, three_ = 0;  // bytes
};

}  // namespace mmrec::simd::detail
