#include "server/connection_acceptor.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "base/fake_metrics.h"
#include "base/mutex.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

class ConnectionAcceptorTest : public testing::Test {
 protected:
  ~ConnectionAcceptorTest() override {
    acceptor_.reset();
    for (const int fd : taken_) close(fd);
    for (const int fd : clients_) close(fd);
  }
  void Start(ConnectionAcceptor::Options options) {
    options.metrics = &metrics_;
    absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> acceptor = ConnectionAcceptor::Listen({"127.0.0.1", 0}, options);
    ASSERT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
    acceptor_->Start([this](int fd) {
      MutexLock lock(&mutex_);
      taken_.push_back(fd);
    });
  }
  int Socket() { return clients_.emplace_back(socket(AF_INET, SOCK_STREAM, 0)); }
  bool Connect(int fd) const {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(acceptor_->address().port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  size_t taken() {
    MutexLock lock(&mutex_);
    return taken_.size();
  }
  void WaitForTaken(size_t count) {
    while (taken() < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  static bool IsTurnedAway(int fd) {
    char byte;
    return recv(fd, &byte, 1, 0) <= 0;  // Waits for the end.
  }

  FakeMetrics metrics_;
  Mutex mutex_;
  std::vector<int> taken_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> clients_;
  std::unique_ptr<ConnectionAcceptor> acceptor_;
};

TEST_F(ConnectionAcceptorTest, TurnsAwayWhoComesToAFullHouseAndLetsInWhoComesLater) {
  Start({.max_connections = 2});
  ASSERT_TRUE(Connect(Socket()));
  ASSERT_TRUE(Connect(Socket()));
  WaitForTaken(2);
  const int third = Socket();
  ASSERT_TRUE(Connect(third));
  EXPECT_TRUE(IsTurnedAway(third));
  EXPECT_EQ(taken(), 2u);
  EXPECT_EQ(metrics_.value("loci_connections_total", {{"result", "refused"}}), 1);
  {
    MutexLock lock(&mutex_);
    close(taken_.front());
    taken_.erase(taken_.begin());
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  ASSERT_TRUE(Connect(Socket()));
  WaitForTaken(2);
  EXPECT_EQ(metrics_.value("loci_connections_total", {{"result", "accepted"}}), 3);
  EXPECT_EQ(metrics_.value("loci_connections"), 2);
}

TEST_F(ConnectionAcceptorTest, TurnsAwayWhoWouldTakeTheLastFiles) {
  const int next = dup(0);
  close(next);
  Start({.max_descriptor = next + 3});  // The listening socket, the eventfd and the client's have three of them.
  ASSERT_TRUE(Connect(Socket()));
  WaitForTaken(1);
  const int second = Socket();
  ASSERT_TRUE(Connect(second));
  EXPECT_TRUE(IsTurnedAway(second));
}

TEST_F(ConnectionAcceptorTest, GoesOnWhenTheSystemHasFilesAgain) {
  Start({});
  const int client = Socket();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(client) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  ASSERT_TRUE(Connect(client));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const size_t without = taken();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(without, 0u);
  WaitForTaken(1);
}

TEST(ConnectionLimit, LeavesRoomForFiles) {
  EXPECT_EQ(ConnectionLimit(16'384, 1'000'000), 16'384);
  EXPECT_EQ(ConnectionLimit(16'384, 8'192), 8'192 - 1024);
  EXPECT_EQ(ConnectionLimit(16'384, 1'024), 1'024 - 256);
  EXPECT_EQ(ConnectionLimit(16'384, 20), 1);
  EXPECT_EQ(ConnectionLimit(10, INT64_MAX), 10);
  EXPECT_GE(RaiseFileLimit(), 20);
}

}  // namespace
}  // namespace loci
