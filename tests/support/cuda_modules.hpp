// SPDX-License-Identifier: Apache-2.0
// Norm, attention, loss, embedding and recurrence on testing::device: the kernels of backend::cuda,
// waited for. The tests in tests/cuda include this before the suite of the same name.
#pragma once

#include <mmrec/attention.hpp>
#include <mmrec/embedding.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/norm.hpp>
#include <mmrec/recurrence.hpp>

#include <memory>

#include "cuda_device.hpp"

namespace mmrec::testing {

template <class F>
void wait_for(const F& f) {
  const backend::cuda gpu{};
  f(gpu);
  cuda::check("wait_for", "cudaStreamSynchronize", cudaStreamSynchronize(cuda::stream_of(gpu)));
}

template <class... A>
void rms_norm_rows(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { rms_norm_rows(gpu, a...); });
}
template <class... A>
void rms_norm_backward_rows(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { rms_norm_backward_rows(gpu, a...); });
}
template <class... A>
void embedding_rows(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { embedding_rows(gpu, a...); });
}
template <class... A>
void embedding_backward_rows(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { embedding_backward_rows(gpu, a...); });
}
template <class... A>
void cross_entropy_rows(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { cross_entropy_rows(gpu, a...); });
}
template <class F>
double value_of(const device&, const char* function, const F& f) {
  return value_of(backend::cuda{}, function, f);
}
template <class... A>
void attention_heads(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { attention_heads(gpu, a...); });
}
template <class... A>
void attention_backward_heads(const device&, const A&... a) {
  wait_for([&](const backend::cuda& gpu) { attention_backward_heads(gpu, a...); });
}

/// The report is what the device wrote.
template <class F>
recurrence_report reported(const F& f) {
  const auto report = std::make_unique<recurrence_report>();
  recurrence_report known;
  wait_for([&](const backend::cuda& gpu) { known = f(gpu, report.get()); });
  return report->solver == known.solver ? *report : recurrence_report{solver::automatic};
}
template <element T>
recurrence_report solve_recurrence(const device&, const view<const T, 3>& z,
                                   const view<const T, 3>& gamma, const recurrence_weights<T>& w,
                                   const view<T, 3>& h, recurrence_options<T> options) {
  return reported([&](const backend::cuda& gpu, recurrence_report* report) {
    options.report = report;
    return solve_recurrence(gpu, z, gamma, w, h, options);
  });
}
template <element T>
recurrence_report solve_adjoint(const device&, const view<const T, 3>& g, const view<const T, 3>& z,
                                const view<const T, 3>& gamma, const view<const T, 3>& h,
                                const recurrence_weights<T>& w, recurrence_gradients<T> out) {
  return reported([&](const backend::cuda& gpu, recurrence_report* report) {
    out.report = report;
    return solve_adjoint(gpu, g, z, gamma, h, w, out);
  });
}

}  // namespace mmrec::testing
