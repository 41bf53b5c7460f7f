// What a server is started with; server/config.h makes it of a file and flags.
#ifndef LOCI_SERVER_SERVER_OPTIONS_H_
#define LOCI_SERVER_SERVER_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/device.h"
#include "base/file.h"
#include "encoder/batcher.h"
#include "encoder/cuda/backend.h"
#include "retriever/fold_limits.h"
#include "retriever/sentence_reader.h"
#include "server/refusal_queue.h"
#include "server/search_device.h"

namespace loci {

// Of connections. A client that died without a word is noticed within time_ms + timeout_ms.
struct KeepaliveOptions {
  int time_ms = 30'000;
  int timeout_ms = 20'000;
  int min_ping_interval_ms = 10'000;  // Clients may ping as often.
};

// Of one unary method.
struct MethodLimit {
  std::string method;           // "Search"
  int64_t max_in_flight = 0;    // 0: none beside that of all requests.
  int64_t max_deadline_ms = 0;  // A request that allows more, or has no deadline, gets this one. 0: none.
};

struct ServerOptions {
  std::string data_directory = "loci-data";  // Made if absent; one server at a time.
  std::string model_directory = "models/all-MiniLM-L6-v2";
  std::vector<std::string> encoder_directories;  // Of further encoders.
  std::string listen = "127.0.0.1:7440";  // HOST:PORT; port 0 picks one.
  std::string metrics_listen = "127.0.0.1:7441";  // Empty: none.
  std::string device = "auto";
  std::string encoder_precision = "auto";  // A Precision's name.
  std::string search_device = "cpu";          // Of exact search: auto, cpu or cuda:N.
  int64_t search_device_memory_bytes = 0;     // That exact search may have there; 0: what is free.
  int thread_count = 0;  // Of the pool that tokenizes, encodes, searches. 0: one a core.
  int admin_thread_count = 8;
  int64_t max_in_flight = 1'024;
  int64_t max_in_flight_bytes = int64_t{1} << 28;
  int64_t max_ingests = 4;
  int64_t max_connections = 16'384;  // Fewer where the process may not have so many files.
  int64_t pushback_ms = 250;
  RefusalQueue::Options refusals;
  int64_t ingest_idle_timeout_ms = 120'000;
  int32_t keep_generations = 0;  // Of stores where nothing is set; 0 keeps all.
  int64_t memory_budget_bytes = 0;  // Of generations and overlays, besides mapped files; 0: what the machine has.
  int64_t drain_timeout_ms = 30'000;  // Stop waits so long for requests in flight, then cancels them.
  double live_recall_share = 0.01;  // Of approximately answered queries; 0 to 1. See LiveRecall.
  double abstain_threshold = SentenceReaderOptions().abstain_threshold;  // Below this confidence a reader gives no answer.
  FoldLimits fold = {.max_overlay_share = 0.2, .max_overlay_bytes = int64_t{1} << 30};
  BatcherOptions batcher = {.max_batch_tokens = 0, .worker_count = 0};  // 0: as batcher_defaults.h has it for the device.
  KeepaliveOptions keepalive;
  std::vector<MethodLimit> method_limits;  // One a method at most; of unary methods that exist.
  bool log_requests = false;               // A line for every request, not only for those that failed.
  FileSystem* fs = &PosixFileSystem();
  Clock* clock = &RealClock();
  // The machine's CUDA devices; a test brings its own.
  std::function<CudaProbe()> probe_cuda = ProbeCuda;
  std::function<absl::StatusOr<std::shared_ptr<CudaBackend>>(int ordinal)> open_cuda = OpenCudaBackend;
  SearchDeviceOpener open_search_device = OpenExactPlacer;
  std::function<void(const std::string& address)> on_metrics_listening;  // Called once, while the rest still starts.
};

}  // namespace loci

#endif  // LOCI_SERVER_SERVER_OPTIONS_H_
