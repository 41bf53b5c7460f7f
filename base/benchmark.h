// What the programs that measure share. Their errors end them.
#ifndef LOCI_BASE_BENCHMARK_H_
#define LOCI_BASE_BENCHMARK_H_

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

// Unless it is OK, prints it and exits with 1.
inline void CheckOk(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  CheckOk(value.status());
  return *std::move(value);
}

// Of the steady clock.
inline double NowSeconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace loci

#endif  // LOCI_BASE_BENCHMARK_H_
