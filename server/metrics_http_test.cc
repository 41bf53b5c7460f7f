#include "server/metrics_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kForeverUs = int64_t{3600} * 1'000'000;

// A client's end of a connection; blocking.
class Client {
 public:
  explicit Client(const HostPort& address) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(address.port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0) << errno;
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Send(const std::string& text) { EXPECT_EQ(send(fd_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())); }
  std::string ReadAll() {
    std::string reply;
    char buffer[65536];
    for (ssize_t n; (n = read(fd_, buffer, sizeof(buffer))) > 0;) reply.append(buffer, static_cast<size_t>(n));
    return reply;
  }
  bool open() const {
    char byte;
    return recv(fd_, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
  }

 private:
  const int fd_;
};

std::string Scrape(const HostPort& address) {
  Client client(address);
  client.Send("GET /metrics HTTP/1.1\r\n\r\n");
  return client.ReadAll();
}

std::unique_ptr<MetricsHttp> Start(const MetricsHttp::Options& options, const std::string& text = "loci_level 1\n") {
  absl::StatusOr<std::unique_ptr<MetricsHttp>> started = MetricsHttp::Listen({"127.0.0.1", 0}, [text] { return text; }, options);
  EXPECT_TRUE(started.ok()) << started.status();
  return *std::move(started);
}

TEST(MetricsHttp, AnswersWhileOthersAreSilent) {
  const std::unique_ptr<MetricsHttp> http = Start({.client_time_us = kForeverUs});
  Client silent(http->address());
  Client half(http->address());
  half.Send("GET /met");
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Scrape(http->address()), AllOf(HasSubstr("200 OK"), HasSubstr("loci_level 1")));
  EXPECT_TRUE(silent.open());
  half.Send("rics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(half.ReadAll(), HasSubstr("200 OK")) << "it was left where it was";
}

TEST(MetricsHttp, AnswersWhileAnotherDoesNotRead) {
  const std::string large(32 << 20, 'x');  // More than the buffers of a socket hold.
  const std::unique_ptr<MetricsHttp> http = Start({.client_time_us = kForeverUs}, large);
  Client slow(http->address());
  slow.Send("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_GT(Scrape(http->address()).size(), large.size());
  EXPECT_GT(slow.ReadAll().size(), large.size());
}

TEST(MetricsHttp, DropsTheLongestSilentWhenFull) {
  const std::unique_ptr<MetricsHttp> http = Start({.max_connections = 2, .client_time_us = kForeverUs});
  Client first(http->address());
  Client second(http->address());
  EXPECT_THAT(Scrape(http->address()), HasSubstr("200 OK"));
  EXPECT_EQ(first.ReadAll(), "");
  EXPECT_TRUE(second.open());
}

TEST(MetricsHttp, DropsAClientAfterItsTime) {
  const std::unique_ptr<MetricsHttp> http = Start({.client_time_us = 1'000});
  Client silent(http->address());
  EXPECT_EQ(silent.ReadAll(), "");  // A hang shows as this test's timeout.
}

TEST(MetricsHttp, OutlivesAThousandConnectionsThatAreLeft) {
  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const int count = files.rlim_cur < 1'200 ? static_cast<int>(files.rlim_cur) / 2 : 1'000;
  const std::unique_ptr<MetricsHttp> http = Start({.client_time_us = kForeverUs});
  std::vector<std::unique_ptr<Client>> left;
  for (int i = 0; i < count; ++i) left.push_back(std::make_unique<Client>(http->address()));
  EXPECT_THAT(Scrape(http->address()), HasSubstr("200 OK"));
  int open = 0;
  for (const std::unique_ptr<Client>& client : left) open += client->open();
  EXPECT_EQ(open, 31) << "the scrape had taken the place of one";
}

}  // namespace
}  // namespace loci
