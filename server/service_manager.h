// Tells the service manager that started this process how it is, by the protocol of sd_notify(3).
#ifndef LOCI_SERVER_SERVICE_MANAGER_H_
#define LOCI_SERVER_SERVICE_MANAGER_H_

#include <string_view>

namespace loci {

// `state` is "READY=1" or "STOPPING=1". Sent to the socket that $NOTIFY_SOCKET names; nothing happens where it is not set (no service manager
// asked). A failure is logged. Does not block for long: one datagram.
void NotifyServiceManager(std::string_view state);

}  // namespace loci

#endif  // LOCI_SERVER_SERVICE_MANAGER_H_
