// Early return on errors:
//
//   LOCI_RETURN_IF_ERROR(file->Sync());
//   LOCI_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
#ifndef LOCI_BASE_STATUS_MACROS_H_
#define LOCI_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define LOCI_STATUS_CONCAT_INNER(a, b) a##b
#define LOCI_STATUS_CONCAT(a, b) LOCI_STATUS_CONCAT_INNER(a, b)

#define LOCI_RETURN_IF_ERROR(expr)       \
  do {                                   \
    absl::Status loci_status_ = (expr);  \
    if (!loci_status_.ok()) [[unlikely]] \
      return loci_status_;               \
  } while (false)

#define LOCI_ASSIGN_OR_RETURN(lhs, expr) LOCI_ASSIGN_OR_RETURN_INNER(LOCI_STATUS_CONCAT(loci_statusor_, __LINE__), lhs, expr)

#define LOCI_ASSIGN_OR_RETURN_INNER(statusor, lhs, expr) \
  auto statusor = (expr);                                \
  if (!statusor.ok()) [[unlikely]]                       \
    return std::move(statusor).status();                 \
  lhs = *std::move(statusor)

#endif  // LOCI_BASE_STATUS_MACROS_H_
