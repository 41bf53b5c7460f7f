#include "server/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "gtest/gtest.h"

namespace loci {
namespace {

TEST(NotifyServiceManager, SendsOneDatagramToTheSocketThatIsNamed) {
  // Abstract, so that the length of the test's folder does not matter.
  const std::string name = "@loci-service-manager-test-" + std::to_string(getpid());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM, 0);
  ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())), 0);
  setenv("NOTIFY_SOCKET", name.c_str(), 1);
  NotifyServiceManager("READY=1");
  char received[64];
  const ssize_t size = ::recv(socket, received, sizeof(received), MSG_DONTWAIT);
  ASSERT_GT(size, 0);
  EXPECT_EQ(std::string(received, static_cast<size_t>(size)), "READY=1");
  ::close(socket);
}

TEST(NotifyServiceManager, DoesNothingWhereNobodyAskedOrListens) {
  unsetenv("NOTIFY_SOCKET");
  NotifyServiceManager("READY=1");
  for (const std::string& socket : {std::string("/no/such/socket"), std::string("not a path"), "/" + std::string(200, 'x')}) {
    setenv("NOTIFY_SOCKET", socket.c_str(), 1);
    NotifyServiceManager("READY=1");
  }
}

}  // namespace
}  // namespace loci
