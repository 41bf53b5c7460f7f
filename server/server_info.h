// What GetServerInfo answers of the process: version, devices, limits.
#ifndef LOCI_SERVER_SERVER_INFO_H_
#define LOCI_SERVER_SERVER_INFO_H_

#include <cstdint>

#include "base/device.h"
#include "proto/loci/v1/admin.pb.h"
#include "server/server_options.h"

namespace loci {

// All but encoders, readers and max_connections, which come with what they count. `choice`: encoders', `search`: of exact search.
// Reads the machine's name and memory.
loci::v1::GetServerInfoResponse MakeServerInfo(const CudaProbe& probe, const DeviceChoice& choice, const DeviceChoice& search,
                                               const ServerOptions& options, int64_t max_control_requests);

}  // namespace loci

#endif  // LOCI_SERVER_SERVER_INFO_H_
