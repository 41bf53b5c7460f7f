// FilterExpression::Parse over any bytes: a tree whose promises hold, or an error that says where.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/logging.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "index/filter_expression.h"

namespace {

using loci::FilterExpression;
using Kind = FilterExpression::Kind;

void CheckTree(const FilterExpression& filter) {
  LOCI_CHECK(filter.root() >= 0 && filter.root() < filter.node_count());
  for (int i = 0; i < filter.node_count(); ++i) {
    const FilterExpression::Node& node = filter.node(i);
    for (const int child : node.children) LOCI_CHECK(child >= 0 && child < i);  // No cycle.
    const bool is_chain = node.kind == Kind::kAnd || node.kind == Kind::kOr;
    LOCI_CHECK(is_chain ? node.children.size() >= 2 : node.children.size() == (node.kind == Kind::kNot ? 1u : 0u));
    LOCI_CHECK(node.kind == Kind::kIn ? !node.values.empty() : node.values.size() == (node.kind == Kind::kCompare ? 1u : 0u));
    for (const loci::FilterValue& value : node.values) {
      if (const double* number = std::get_if<double>(&value)) LOCI_CHECK(std::isfinite(*number));
      if (const std::string* text = std::get_if<std::string>(&value)) LOCI_CHECK(loci::IsValidUtf8(*text));
    }
    const bool is_condition = !is_chain && node.kind != Kind::kNot;
    if (is_condition) LOCI_CHECK(node.field.name.empty() == (node.field.source != loci::FieldSource::kMetadata));
  }
}

void CheckError(const absl::Status& status, size_t size) {
  LOCI_CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  const auto reason = loci::GetErrorReason(status);
  LOCI_CHECK(reason.has_value() && reason->metadata.at("field") == "filter" && !reason->metadata.at("expected").empty());
  LOCI_CHECK(std::stoull(reason->metadata.at("position")) <= size);
  LOCI_CHECK(status.message().size() < 1000 && loci::IsValidUtf8(loci::StdView(status.message())));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto filter = FilterExpression::Parse(text);
  if (!filter.ok()) {
    CheckError(filter.status(), size);
    return 0;
  }
  CheckTree(**filter);
  // What it prints means the same. Its parentheses may be too deep to be read again.
  const std::string printed = (*filter)->ToString();
  const auto again = FilterExpression::Parse(printed);
  if (again.ok()) {
    LOCI_CHECK((*again)->ToString() == printed);
  } else {
    CheckError(again.status(), printed.size());
    const std::string expected = loci::GetErrorReason(again.status())->metadata.at("expected");
    LOCI_CHECK(expected.find("levels") != std::string::npos || expected.find("bytes") != std::string::npos);
  }
  return 0;
}
