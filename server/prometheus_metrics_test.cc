#include "server/prometheus_metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/address.h"

namespace loci {
namespace {

using ::testing::HasSubstr;

std::string HttpSend(const HostPort& address, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(address.port));
  inet_pton(AF_INET, address.host.c_str(), &to.sin_addr);
  std::string reply;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    if (write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) reply.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  return reply;
}

std::string HttpGet(const HostPort& address, const std::string& path) {
  return HttpSend(address, "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
}

TEST(PrometheusMetrics, SpeaksTheTextFormat) {
  PrometheusMetrics metrics;
  metrics.counter("loci_things_total", "Things.", {{"kind", "a"}}).Add(2);
  metrics.counter("loci_things_total", "Things.", {{"kind", "b"}});
  metrics.gauge("loci_level", "Level.", {}).Set(3.5);
  metrics.histogram("loci_wait_seconds", "Wait.", {}, {0.1, 1}).Observe(0.5);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("# TYPE loci_things_total counter"));
  EXPECT_THAT(text, HasSubstr("loci_things_total{kind=\"a\"} 2"));
  EXPECT_THAT(text, HasSubstr("loci_things_total{kind=\"b\"} 0"));
  EXPECT_THAT(text, HasSubstr("loci_level 3.5"));
  EXPECT_THAT(text, HasSubstr("loci_wait_seconds_bucket{le=\"0.1\"} 0"));
  EXPECT_THAT(text, HasSubstr("loci_wait_seconds_bucket{le=\"1\"} 1"));
}

TEST(PrometheusMetrics, FindsTheSameSeriesAgainFromManyThreads) {
  PrometheusMetrics metrics;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&metrics] {
      for (int n = 0; n < 100; ++n) {
        metrics.counter("loci_things_total", "Things.", {{"kind", "a"}}).Add(1);
        metrics.histogram("loci_wait_seconds", "Wait.", {}, {1}).Observe(2);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(metrics.Text(), HasSubstr("loci_things_total{kind=\"a\"} 800"));
  EXPECT_THAT(metrics.Text(), HasSubstr("loci_wait_seconds_count 800"));
}

TEST(PrometheusMetrics, AddsWhatIsLookedUpWhenItIsRead) {
  PrometheusMetrics metrics;
  metrics.gauge("loci_level", "Level.", {}).Set(1);
  int reads = 0;
  metrics.SetSamples([&reads] {
    ++reads;
    return std::vector<GaugeSample>{{"loci_size_bytes", "Size.", {{"of", "a\"b"}}, 2}, {"loci_size_bytes", "Size.", {{"of", "c"}}, 3.5}};
  });
  const std::string text = metrics.Text();
  EXPECT_THAT(text, AllOf(HasSubstr("loci_level 1"), HasSubstr("# TYPE loci_size_bytes gauge\nloci_size_bytes{of=\"a\\\"b\"} 2\n"),
                          HasSubstr("loci_size_bytes{of=\"c\"} 3.5\n")));
  EXPECT_EQ(text.find("# TYPE loci_size_bytes"), text.rfind("# TYPE loci_size_bytes")) << "one family";
  metrics.SetSamples(nullptr);
  EXPECT_EQ(metrics.Text().find("loci_size_bytes"), std::string::npos);
  EXPECT_EQ(reads, 1);
}

TEST(PrometheusMetrics, ServesOverHttpOnAPortOfItsOwn) {
  PrometheusMetrics metrics;
  metrics.gauge("loci_level", "Level.", {}).Set(3.5);
  const absl::StatusOr<std::string> address = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  const HostPort host_port = *ParseHostPort(*address);
  EXPECT_GT(host_port.port, 0);
  EXPECT_THAT(HttpGet(host_port, "/metrics"), AllOf(HasSubstr("200 OK"), HasSubstr("loci_level 3.5")));

  EXPECT_THAT(HttpGet(host_port, "/metrics?x=1"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(host_port, "/"), HasSubstr("404 Not Found"));
  EXPECT_THAT(HttpSend(host_port, "POST /metrics HTTP/1.1\r\n\r\n"), HasSubstr("405"));
  EXPECT_EQ(HttpSend(host_port, std::string(100'000, 'x')), "") << "a request without an end is cut off";
  EXPECT_THAT(HttpGet(host_port, "/metrics"), HasSubstr("200 OK")) << "and the next one is answered";

  PrometheusMetrics other;
  const absl::StatusOr<std::string> taken = other.Listen(*address);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr("cannot listen on " + *address));
}

TEST(PrometheusMetrics, EndsWhileAClientStalls) {
  auto metrics = std::make_unique<PrometheusMetrics>();
  const HostPort address = *ParseHostPort(*metrics->Listen("127.0.0.1:0"));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(address.port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  ASSERT_EQ(write(fd, "GET ", 4), 4);
  metrics.reset();  // Does not wait for the rest; a hang shows as this test's timeout.
  close(fd);
}

}  // namespace
}  // namespace loci
