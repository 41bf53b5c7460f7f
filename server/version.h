// The version that GetServerInfo, --version and the logs name.
#ifndef LOCI_SERVER_VERSION_H_
#define LOCI_SERVER_VERSION_H_

namespace loci {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace loci

#endif  // LOCI_SERVER_VERSION_H_
