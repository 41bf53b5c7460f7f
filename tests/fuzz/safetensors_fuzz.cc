// Any bytes as a safetensors file: refused with INVALID_ARGUMENT, or what it says of its tensors holds.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "encoder/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = loci::Safetensors::Parse(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!parsed.ok()) {
    if (parsed.status().code() != absl::StatusCode::kInvalidArgument || parsed.status().message().size() > 4096) std::abort();
    return 0;
  }
  int64_t bytes = 0;
  for (const auto& [name, info] : (*parsed)->tensors()) {
    bytes += info.end - info.begin;
    if (info.end < info.begin || info.end > static_cast<int64_t>(size)) std::abort();
    int64_t count = 1;
    for (int64_t extent : info.shape) count *= extent;
    if (count > static_cast<int64_t>(size)) std::abort();
    // Reads every byte of what it may read, so that the address sanitizer sees one too many.
    std::vector<float> values(static_cast<size_t>(count));
    const absl::Status status = (*parsed)->ReadFloats(name, info.shape, values.data());
    const bool readable = info.dtype == "F32" || info.dtype == "F16" || info.dtype == "BF16";
    if (status.ok() != readable) std::abort();
  }
  if (bytes + 8 > static_cast<int64_t>(size)) std::abort();  // Tensors never share bytes.
  return 0;
}
