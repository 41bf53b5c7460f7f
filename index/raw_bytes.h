// Plain values in files of Loci's own, as they lie in memory: little-endian, without padding between them.
#ifndef LOCI_INDEX_RAW_BYTES_H_
#define LOCI_INDEX_RAW_BYTES_H_

#include <cstring>
#include <string>

namespace loci {

template <typename T>
void AppendRaw(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// `data` has sizeof(T) bytes and needs no alignment.
template <typename T>
T LoadRaw(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

}  // namespace loci

#endif  // LOCI_INDEX_RAW_BYTES_H_
