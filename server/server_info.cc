#include "server/server_info.h"

#include <sys/sysinfo.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "index/passage_index.h"
#include "server/validation.h"
#include "server/version.h"

namespace loci {
namespace {

std::string CpuName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line)) {
    if (line.starts_with("model name")) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "";
}

int64_t MemoryBytes() {
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? static_cast<int64_t>(info.totalram) * info.mem_unit : 0;
}

}  // namespace

loci::v1::GetServerInfoResponse MakeServerInfo(const CudaProbe& probe, const DeviceChoice& choice, const DeviceChoice& search,
                                               const ServerOptions& options, int64_t max_control_requests) {
  loci::v1::GetServerInfoResponse info;
  info.set_version(kVersion);
  info.set_cpu_isa(std::string(CpuIsaName(DetectCpuIsa())));
  loci::v1::Device& cpu = *info.add_devices();
  cpu.set_device("cpu");
  cpu.set_name(CpuName());
  cpu.set_memory_bytes(MemoryBytes());
  for (const CudaDevice& device : probe.devices) {
    loci::v1::Device& cuda = *info.add_devices();
    cuda.set_device(absl::StrCat("cuda:", device.ordinal));
    cuda.set_name(device.name);
    cuda.set_memory_bytes(device.total_memory_bytes);
  }
  for (loci::v1::Device& device : *info.mutable_devices()) {
    device.set_chosen(device.device() == choice.name);
    device.set_reason(device.chosen() ? choice.reason : absl::StrCat(choice.name, " was chosen"));
    if (options.search_device == "cpu" || device.device() != search.name) continue;
    device.set_reason(absl::StrCat(device.chosen() ? "encoders: " : "not for encoders: ", device.reason(), "; exact search runs here: ", search.reason));
  }
  loci::v1::Limits& limits = *info.mutable_limits();
  limits.set_max_message_bytes(kMaxMessageBytes);
  limits.set_max_top_k(kMaxTopK);
  limits.set_max_queries(kMaxQueries);
  limits.set_max_texts(kMaxTexts);
  limits.set_max_text_bytes(kMaxTextBytes);
  limits.set_max_passages_per_batch(kMaxPassages);
  limits.set_max_in_flight_requests(options.max_in_flight);
  limits.set_max_in_flight_bytes(options.max_in_flight_bytes);
  limits.set_max_ingests(options.max_ingests);
  limits.set_max_control_requests(max_control_requests);
  limits.set_max_queued_tokens(options.batcher.max_queued_tokens);
  for (const MethodLimit& limit : options.method_limits) {
    loci::v1::MethodLimit& out = *limits.add_method_limits();
    out.set_method(limit.method);
    out.set_max_in_flight(limit.max_in_flight);
    out.set_max_deadline_ms(limit.max_deadline_ms);
  }
  return info;
}

}  // namespace loci
