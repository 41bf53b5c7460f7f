// Between std::string_view and absl::string_view. Debian's Abseil is built for C++14, so that its string_view is a type of its
// own, and absl::StrCat and the absl::...Error functions do not take a std::string_view:
//
//   return absl::NotFoundError(absl::StrCat("no store named ", AbslView(name)));
//   std::string_view message = StdView(status.message());
#ifndef LOCI_BASE_STRINGS_H_
#define LOCI_BASE_STRINGS_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace loci {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace loci

#endif  // LOCI_BASE_STRINGS_H_
