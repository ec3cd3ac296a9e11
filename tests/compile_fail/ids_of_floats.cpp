// SPDX-License-Identifier: Apache-2.0
// expect: integer_array
#include <mmrec/embedding.hpp>

void call(mmrec::view<const float, 1> ids, mmrec::view<const float, 2> table,
          mmrec::view<float, 2> y) {
  mmrec::embedding(mmrec::backend::reference{}, ids, table, y);
}
