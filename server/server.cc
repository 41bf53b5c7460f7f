#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/device.h"
#include "base/error.h"
#include "base/logging.h"
#include "base/memory_info.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/thread_pool.h"
#include "encoder/cuda/backend.h"
#include "encoder/encoder.h"
#include "encoder/precision.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "retriever/auto_folder.h"
#include "retriever/encoder_drift_table.h"
#include "retriever/encoder_refresh.h"
#include "retriever/encoder_registry.h"
#include "retriever/generation_manager.h"
#include "retriever/job_registry.h"
#include "retriever/large_work_line.h"
#include "retriever/live_recall.h"
#include "retriever/pipeline.h"
#include "retriever/training_pipeline.h"
#include "retriever/training_sessions.h"
#include "server/address.h"
#include "server/admin_service.h"
#include "server/admission.h"
#include "server/batcher_defaults.h"
#include "server/connection_acceptor.h"
#include "server/prometheus_metrics.h"
#include "server/readers.h"
#include "server/refusal_queue.h"
#include "server/reply.h"
#include "server/request_metrics.h"
#include "server/retrieval_service.h"
#include "server/search_device.h"
#include "server/server_info.h"
#include "server/service_context.h"
#include "server/training_service.h"
#include "server/validation.h"

// OpenBLAS runs its own threads unless told otherwise. Weak: there where something links it.
extern "C" void openblas_set_num_threads(int) __attribute__((weak));

namespace loci {
namespace {

// How long answers may take to reach their clients once all requests are done.
constexpr std::chrono::seconds kDeliveryTime(5);

// Jobs whose clients do not wait: so many run at once, so many wait for their turn.
constexpr int kLoadThreads = 2;  // Verify generations that searches name: others of their sort wait, not what is written meanwhile.
constexpr int kSwitchThreads = 4;
constexpr int kWatchThreads = 8;  // They sleep nearly always. One a watch: more are refused.
constexpr int kVerifyThreads = 2;
constexpr int kFoldThreads = 1;
constexpr int kReembedThreads = 2;
constexpr int64_t kMaxQueuedJobs = 64;
constexpr int64_t kMaxExports = 4;

// After the last answer the server goes on refusing until nothing has come for so long, for so long at most.
constexpr int64_t kQuietMs = 50;
constexpr int64_t kMostQuietWaitMs = 1'000;

// Of requests that look after the server.
constexpr int kControlThreads = 2;
constexpr int64_t kMaxControlRequests = 256;
constexpr int64_t kMaxWatches = 1'024;

// Files that connections never take.
constexpr int64_t kSpareFiles = 32;

int ThreadCount(const ServerOptions& options) {
  if (options.thread_count > 0) return options.thread_count;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

// Members die in reverse order: the services before what they use.
struct Server::State {
  ServerOptions options;
  std::string address;
  std::string metrics_address;
  PrometheusMetrics metrics;
  std::shared_ptr<FileSystem::Lock> lock;  // Of the data directory, from before anything in it is touched.
  std::unique_ptr<ThreadPool> compute_pool;
  std::shared_ptr<CudaBackend> cuda;  // Null on the CPU.
  SelectedSearchDevice search;
  std::unique_ptr<EncoderRegistry> encoders;
  std::unique_ptr<GenerationManager> manager;
  std::unique_ptr<LiveRecall> live_recall;
  EncoderDriftTable drifts;
  std::unique_ptr<Pipeline> pipeline;
  std::unique_ptr<TrainingSessions> training_sessions;
  std::unique_ptr<TrainingPipeline> training_pipeline;
  std::unique_ptr<JobRegistry> jobs;
  std::unique_ptr<ThreadPool> admin_pool;
  std::unique_ptr<ThreadPool> load_pool;
  std::unique_ptr<ThreadPool> build_pool;
  std::unique_ptr<ThreadPool> switch_pool;
  std::unique_ptr<ThreadPool> watch_pool;
  std::unique_ptr<ActivationWatches> activation_watches;
  std::unique_ptr<ThreadPool> verify_pool;
  std::unique_ptr<ThreadPool> fold_pool;
  std::unique_ptr<ThreadPool> reembed_pool;
  std::unique_ptr<EncoderRefresher> refresher;
  std::unique_ptr<AutoFolder> folder;
  std::unique_ptr<ThreadPool> control_pool;
  std::unique_ptr<Admission> requests;
  std::unique_ptr<Admission> control;
  std::unique_ptr<Admission> ingests;
  std::unique_ptr<Admission> exports;
  std::unique_ptr<Admission> watches;
  std::vector<std::unique_ptr<Admission>> method_requests;  // Of methods with a limit of their own.
  std::unique_ptr<RequestMetrics> request_metrics;
  std::unique_ptr<RefusalQueue> refusals;  // Until no call is left: after gRPC's end.
  ServiceContext services;
  std::unique_ptr<RetrievalServiceImpl> retrieval;
  std::unique_ptr<AdminServiceImpl> admin;
  std::unique_ptr<TrainingServiceImpl> training;
  std::unique_ptr<grpc::Server> grpc_server;
  // Before the server that they hand connections to.
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> hand_over;
  std::unique_ptr<ConnectionAcceptor> connections;

  // Held while health is told and while the server that tells it ends: a device may fail on any thread. gRPC's health service calls nobody.
  Mutex health_mutex;
  Mutex stop_mutex;  // Held through Stop, so that a second call waits. Nothing that runs meanwhile takes it.
  bool stopped ABSL_GUARDED_BY(stop_mutex) = false;

  std::vector<GaugeSample> Samples() const;
  absl::Status OpenData(const DeviceChoice& device, Precision precision);
  absl::Status Listen();
  void SetHealth(bool serving);
  // Of each device that something runs on, once.
  std::vector<CudaHealth*> DeviceHealths() const;
  void CloseData();
};

// What is looked up whenever metrics are read: of stores, of live recall, of training, and what the process takes as a whole.
std::vector<GaugeSample> Server::State::Samples() const {
  std::vector<GaugeSample> samples = manager->Metrics();
  for (const std::vector<GaugeSample>& further : {live_recall->Metrics(), training_sessions->Metrics()}) {
    samples.insert(samples.end(), further.begin(), further.end());
  }
  const ProcessUsage usage = ReadProcessUsage(PosixFileSystem());
  samples.push_back({"loci_process_resident_bytes", "Memory of the process that is in RAM, pages of mapped files included.", {},
                     static_cast<double>(usage.resident_bytes)});
  samples.push_back({"loci_process_anonymous_bytes", "Memory of the process that is in RAM, mapped files left out.", {},
                     static_cast<double>(usage.anonymous_bytes)});
  samples.push_back({"loci_process_open_files", "File descriptors of the process.", {}, static_cast<double>(usage.open_files)});
  return samples;
}

absl::Status Server::State::OpenData(const DeviceChoice& device, Precision precision) {
  FileSystem& fs = *options.fs;
  // A path that exists but can't be made a folder, or written to, is told as one thing: what the directory is for.
  if (absl::Status status = CreateDirectoriesSynced(fs, options.data_directory); !status.ok()) {
    return Annotate(status, absl::StrCat("data directory ", options.data_directory));
  }
  absl::StatusOr<std::shared_ptr<FileSystem::Lock>> taken = LockDataDirectory(fs, options.data_directory);
  if (!taken.ok()) return Annotate(taken.status(), absl::StrCat("data directory ", options.data_directory));
  lock = *std::move(taken);

  const int threads = ThreadCount(options);
  // Beside a task of each request the queue holds the parts of parallel loops.
  compute_pool = std::make_unique<ThreadPool>("loci-compute", threads, 2 * options.max_in_flight + 1024);
  // An ingest holds a thread for as long as its index is built, an export while its generation is opened: with one for each, writes and
  // switches find theirs.
  admin_pool = std::make_unique<ThreadPool>("loci-admin", options.admin_thread_count + static_cast<int>(options.max_ingests + kMaxExports),
                                            options.max_in_flight + options.max_ingests + kMaxExports);
  load_pool = std::make_unique<ThreadPool>("loci-load", kLoadThreads, options.max_in_flight);
  control_pool = std::make_unique<ThreadPool>("loci-control", kControlThreads, kMaxControlRequests);

  build_pool = std::make_unique<ThreadPool>("loci-build", static_cast<int>(options.max_ingests), options.max_ingests);
  switch_pool = std::make_unique<ThreadPool>("loci-switch", kSwitchThreads, kMaxQueuedJobs);
  watch_pool = std::make_unique<ThreadPool>("loci-watch", kWatchThreads, kMaxQueuedJobs);
  verify_pool = std::make_unique<ThreadPool>("loci-verify", kVerifyThreads, kMaxQueuedJobs);
  fold_pool = std::make_unique<ThreadPool>("loci-fold", kFoldThreads, kMaxQueuedJobs);
  reembed_pool = std::make_unique<ThreadPool>("loci-reembed", kReembedThreads, kMaxQueuedJobs);

  EncoderRegistry::Options registry_options;
  registry_options.directory = JoinPath(options.data_directory, "encoders");
  registry_options.fs = options.fs;
  registry_options.clock = options.clock;
  registry_options.metrics = &metrics;
  registry_options.encoder.pool = compute_pool.get();
  registry_options.encoder.precision = precision;
  registry_options.encoder.cuda = cuda;
  registry_options.batcher = WithDefaults(options.batcher, cuda != nullptr);
  LOCI_ASSIGN_OR_RETURN(encoders, EncoderRegistry::Open(std::move(registry_options)));
  if (!fs.IsDirectory(options.model_directory)) {
    return absl::NotFoundError(absl::StrCat("no model in ", options.model_directory,
                                            ": it must be the folder of a checkpoint (deploy/setup.sh fetches the default one, --model names another)"));
  }
  absl::StatusOr<std::shared_ptr<TextEncoder>> encoder = encoders->Import(options.model_directory);
  if (!encoder.ok()) return Annotate(encoder.status(), absl::StrCat("model ", options.model_directory));
  const EncoderSpec& spec = (*encoder)->spec();
  LogInfo("server", absl::StrCat("encoder ", spec.model_name, " ", spec.fingerprint.ToString(), " on ", device.name, " in ", spec.element_type, ": ",
                                 spec.element_type_reason));
  for (const std::string& directory : options.encoder_directories) {
    if (!fs.IsDirectory(directory)) return absl::NotFoundError(absl::StrCat("no model in ", directory, ": it must be the folder of a checkpoint"));
    const absl::StatusOr<std::shared_ptr<TextEncoder>> further = encoders->Import(directory, /*make_default=*/false);
    if (!further.ok()) return Annotate(further.status(), absl::StrCat("encoder ", directory));
  }

  GenerationManager::Options manager_options;
  manager_options.data_directory = options.data_directory;
  manager_options.fs = options.fs;
  manager_options.clock = options.clock;
  manager_options.metrics = &metrics;
  manager_options.encoders = encoders.get();
  manager_options.search_pool = compute_pool.get();
  manager_options.exact_placer = search.placer.get();
  manager_options.directory_lock = lock;
  manager_options.keep_generations = options.keep_generations;
  manager_options.memory_budget_bytes = options.memory_budget_bytes;
  LOCI_ASSIGN_OR_RETURN(manager, GenerationManager::Open(manager_options));
  if (search.placer != nullptr) {
    if (const absl::Status failed = search.placer->health().Check(); !failed.ok()) {
      if (options.search_device != "auto" || cuda != nullptr) return failed;
      // It failed with what serves; encoders run on the CPU, and so can all of search.
      manager.reset();
      LeaveSearchDevice(failed, &search);
      manager_options.exact_placer = nullptr;
      LOCI_ASSIGN_OR_RETURN(manager, GenerationManager::Open(std::move(manager_options)));
    }
  }
  if (search.placer != nullptr) {
    // Who named the device is told before anything serves; what an activation finds later is told by what it leaves behind.
    const absl::Status placed = options.search_device == "auto" ? absl::OkStatus() : manager->CheckPlacements();
    if (!placed.ok()) return CantStartOn(placed, options.search_device_memory_bytes);
  }

  JobRegistry::Options job_options;
  job_options.fs = options.fs;
  job_options.directory = JoinPath(options.data_directory, "jobs");
  job_options.clock = options.clock;
  job_options.metrics = &metrics;
  LOCI_ASSIGN_OR_RETURN(jobs, JobRegistry::Open(std::move(job_options)));

  EncoderRefresher::Options refresh_options;
  refresh_options.manager = manager.get();
  refresh_options.jobs = jobs.get();
  refresh_options.pool = reembed_pool.get();
  refresh_options.drifts = &drifts;
  refresh_options.clock = options.clock;
  refresh_options.encode_result = [](const ReembedResult& result, const std::string& job) {
    loci::v1::ReembedStoreResponse reply;
    FillReembed(result, &reply);
    reply.set_job(job);
    return reply.SerializeAsString();
  };
  refresher = std::make_unique<EncoderRefresher>(std::move(refresh_options));

  LiveRecall::Options recall_options;
  recall_options.pool = compute_pool.get();
  recall_options.share = options.live_recall_share;
  recall_options.clock = options.clock;
  recall_options.metrics = &metrics;
  live_recall = std::make_unique<LiveRecall>(recall_options);

  const auto large_line = std::make_shared<LargeWorkLine>(compute_pool.get(), options.clock);
  Pipeline::Options pipeline_options;
  pipeline_options.manager = manager.get();
  pipeline_options.pool = compute_pool.get();
  pipeline_options.large_line = large_line;
  pipeline_options.load_pool = load_pool.get();
  pipeline_options.clock = options.clock;
  pipeline_options.metrics = &metrics;
  pipeline_options.live_recall = live_recall.get();
  pipeline_options.readers = MakeReaders(options.abstain_threshold);
  pipeline = std::make_unique<Pipeline>(std::move(pipeline_options));

  training_sessions = std::make_unique<TrainingSessions>(TrainingSessions::Options{.clock = options.clock, .metrics = &metrics, .drifts = &drifts});
  training_pipeline = std::make_unique<TrainingPipeline>(TrainingPipeline::Options{
      .manager = manager.get(),
      .sessions = training_sessions.get(),
      .drifts = &drifts,
      .pool = compute_pool.get(),
      .large_line = large_line,
      .clock = options.clock});
  return absl::OkStatus();
}

absl::Status Server::State::Listen() {
  LOCI_ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(options.listen));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  hand_over = builder.experimental().AddExternalConnectionAcceptor(grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
                                                                   grpc::InsecureServerCredentials());
  builder.RegisterService(retrieval.get());
  builder.RegisterService(admin.get());
  builder.RegisterService(training.get());
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive.time_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive.timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, options.keepalive.min_ping_interval_ms);
  // Listening first: two servers on one port would share its clients between two corpora.
  ConnectionAcceptor::Options acceptor;
  const int64_t file_limit = RaiseFileLimit();
  acceptor.max_connections = ConnectionLimit(options.max_connections, file_limit);
  acceptor.max_descriptor = file_limit - kSpareFiles;
  acceptor.user_timeout_ms = options.keepalive.timeout_ms;
  acceptor.metrics = &metrics;
  LOCI_ASSIGN_OR_RETURN(connections, ConnectionAcceptor::Listen(host_port, acceptor));
  const std::string message = absl::StrCat("up to ", acceptor.max_connections, " connections; the process may have ", file_limit, " files");
  if (acceptor.max_connections < options.max_connections) {
    LogWarning("server", absl::StrCat(message, ", too few for the ", options.max_connections, " connections that are configured"));
  } else {
    LogInfo("server", message);
  }
  services.info.mutable_limits()->set_max_connections(acceptor.max_connections);
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr) return absl::InternalError(absl::StrCat("gRPC cannot start a server on ", options.listen));
  address = connections->address().ToString();
  return absl::OkStatus();
}

void Server::State::SetHealth(bool serving) {
  MutexLock health_lock(&health_mutex);
  if (grpc_server == nullptr) return;
  grpc::HealthCheckServiceInterface* const health = grpc_server->GetHealthCheckService();
  for (const char* service : {loci::v1::RetrievalService::service_full_name(), loci::v1::AdminService::service_full_name(),
                              loci::v1::TrainingService::service_full_name()}) {
    health->SetServingStatus(service, serving);
  }
  health->SetServingStatus(serving);  // Overall.
}

std::vector<CudaHealth*> Server::State::DeviceHealths() const {
  std::vector<CudaHealth*> healths;
  if (cuda != nullptr) healths.push_back(&cuda->health());
  if (search.placer != nullptr && (healths.empty() || healths[0] != &search.placer->health())) healths.push_back(&search.placer->health());
  return healths;
}

// Every call has been answered, but the threads that answered may still hold what they answered with. An encoder may not end on a
// thread of its own batcher, so this thread keeps each until it is the last that does.
void Server::State::CloseData() {
  metrics.SetSamples(nullptr);
  admin_pool.reset();
  load_pool.reset();
  control_pool.reset();
  build_pool.reset();
  switch_pool.reset();
  watch_pool.reset();
  verify_pool.reset();
  fold_pool.reset();
  refresher.reset();  // Whose thread submits to the pool.
  reembed_pool.reset();
  jobs.reset();
  training_sessions->CloseAll();
  std::vector<std::shared_ptr<TextEncoder>> held = encoders->Loaded();
  manager.reset();
  encoders.reset();
  for (const std::shared_ptr<TextEncoder>& encoder : held) {
    while (encoder.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  held.clear();
  compute_pool.reset();  // Its tasks use all of these.
  training_pipeline.reset();
  training_sessions.reset();
  pipeline.reset();
  live_recall.reset();
  lock.reset();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options) {
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  auto state = std::make_unique<State>();
  state->options = std::move(options);
  // What fails quickly comes before what takes long.
  LOCI_ASSIGN_OR_RETURN(const Precision precision, ParsePrecision(state->options.encoder_precision));
  const CudaProbe probe = state->options.probe_cuda();
  const auto loads = [&options = state->options, precision](const std::shared_ptr<CudaBackend>& backend) -> absl::Status {
    // An explicit device is told what is wrong where the encoder is loaded for good, as is a folder that has no model.
    if (options.device != "auto" || !options.fs->IsDirectory(options.model_directory)) return absl::OkStatus();
    EncoderOptions trial;
    trial.cuda = backend;
    trial.precision = precision;
    const absl::Status status = LoadEncoder(*options.fs, options.model_directory, trial).status();
    // What is wrong with the checkpoint itself is told where it is loaded for good.
    const bool of_device = absl::IsFailedPrecondition(status) || absl::IsUnavailable(status) || absl::IsInternal(status) || absl::IsResourceExhausted(status);
    return of_device ? status : absl::OkStatus();
  };
  LOCI_ASSIGN_OR_RETURN(SelectedDevice selected, SelectDevice(state->options.device, probe, state->options.open_cuda, loads));
  const DeviceChoice& device = selected.choice;
  state->cuda = selected.cuda;
  LogInfo("server", absl::StrCat("device ", device.name, ": ", device.reason));
  LOCI_ASSIGN_OR_RETURN(state->search, SelectSearchDevice(state->options.search_device, probe, state->cuda,
                                                          state->options.search_device_memory_bytes, state->options.open_search_device));
  if (const absl::Status failed = state->cuda == nullptr ? absl::OkStatus() : state->cuda->health().Check(); !failed.ok()) {
    // With what search tried there: encoders are to run where it has just failed.
    if (state->options.device != "auto") {
      return absl::FailedPreconditionError(absl::StrCat("device ", device.name, " can't be used: ", failed.message()));
    }
    selected = {.choice = {.name = "cpu", .reason = absl::StrCat("auto takes the CPU: ", device.name, " can't be used: ", failed.message())}, .cuda = nullptr};
    state->cuda = nullptr;
    LogInfo("server", absl::StrCat("device ", device.name, ": ", device.reason));
  }
  if (state->options.search_device != "cpu") {
    LogInfo("server", absl::StrCat("exact search on ", state->search.choice.name, ": ", state->search.choice.reason));
  }
  if (state->cuda == nullptr) LOCI_RETURN_IF_ERROR(ChoosePrecision(precision, DetectCpuIsa(), DetectCpuExtensions()).status());
  LOCI_ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(state->options.listen));
  LOCI_RETURN_IF_ERROR(CheckCanListen(host_port));
  if (!state->options.metrics_listen.empty()) {
    LOCI_ASSIGN_OR_RETURN(state->metrics_address, state->metrics.Listen(state->options.metrics_listen));
    if (state->options.on_metrics_listening) state->options.on_metrics_listening(state->metrics_address);
  }
  LOCI_RETURN_IF_ERROR(state->OpenData(device, precision));

  Admission::Options requests;
  requests.max_requests = state->options.max_in_flight;
  requests.max_bytes = state->options.max_in_flight_bytes;
  requests.metrics = &state->metrics;
  state->requests = std::make_unique<Admission>(requests);
  Admission::Options control;
  control.kind = "control";
  control.max_requests = kMaxControlRequests;
  control.metrics = &state->metrics;
  state->control = std::make_unique<Admission>(control);
  Admission::Options watches;
  watches.kind = "watcher";
  watches.max_requests = kMaxWatches;
  watches.metrics = &state->metrics;
  state->watches = std::make_unique<Admission>(watches);
  Admission::Options ingests;
  ingests.kind = "ingest";
  ingests.max_requests = state->options.max_ingests;
  ingests.metrics = &state->metrics;
  state->ingests = std::make_unique<Admission>(ingests);
  Admission::Options exports;
  exports.kind = "export";
  exports.max_requests = kMaxExports;
  exports.metrics = &state->metrics;
  state->exports = std::make_unique<Admission>(exports);
  state->request_metrics = std::make_unique<RequestMetrics>(state->metrics);

  state->refusals = std::make_unique<RefusalQueue>(state->options.refusals);

  ServiceContext& services = state->services;
  services.manager = state->manager.get();
  services.pipeline = state->pipeline.get();
  services.training = state->training_pipeline.get();
  services.admin_pool = state->admin_pool.get();
  services.jobs = state->jobs.get();
  services.refresher = state->refresher.get();
  services.build_pool = state->build_pool.get();
  services.switch_pool = state->switch_pool.get();
  services.watch_pool = state->watch_pool.get();
  state->activation_watches = std::make_unique<ActivationWatches>(state->metrics, state->options.clock, kWatchThreads);
  services.activation_watches = state->activation_watches.get();
  services.verify_pool = state->verify_pool.get();
  services.fold_pool = state->fold_pool.get();
  services.reembed_pool = state->reembed_pool.get();
  services.control_pool = state->control_pool.get();
  services.requests = state->requests.get();
  services.control = state->control.get();
  services.refusals = state->refusals.get();
  services.watches = state->watches.get();
  services.ingests = state->ingests.get();
  services.exports = state->exports.get();
  services.metrics = state->request_metrics.get();
  services.clock = state->options.clock;
  services.log_requests = state->options.log_requests;
  for (const MethodLimit& limit : state->options.method_limits) {
    for (int i = 0; i < kMethodCount; ++i) {
      if (MethodName(static_cast<Method>(i)) != limit.method) continue;
      ServiceContext::OfMethod& method = services.methods[static_cast<size_t>(i)];
      method.max_deadline_us = 1000 * limit.max_deadline_ms;
      if (limit.max_in_flight <= 0) continue;
      Admission::Options own;
      own.method = limit.method;
      own.max_requests = limit.max_in_flight;
      own.max_bytes = state->options.max_in_flight_bytes;
      own.metrics = &state->metrics;
      method.requests = state->method_requests.emplace_back(std::make_unique<Admission>(own)).get();
    }
  }
  services.pushback_ms = state->options.pushback_ms;
  services.ingest_idle_timeout_ms = state->options.ingest_idle_timeout_ms;
  services.info = MakeServerInfo(probe, device, state->search.choice, state->options, kMaxControlRequests);
  for (const std::string& reader : state->pipeline->reader_names()) services.info.add_readers(reader);
  state->retrieval = std::make_unique<RetrievalServiceImpl>(services);
  state->admin = std::make_unique<AdminServiceImpl>(services);
  state->training = std::make_unique<TrainingServiceImpl>(services);
  // The port opens when everything behind it is there, so that health never says SERVING too early.
  LOCI_RETURN_IF_ERROR(state->Listen());
  state->metrics.SetSamples([state = state.get()] { return state->Samples(); });
  state->SetHealth(true);
  for (CudaHealth* const health : state->DeviceHealths()) {
    health->SetListener([state = state.get()](const absl::Status& failure) {
      LogError("server", std::string(failure.message()));
      state->SetHealth(false);
    });
  }
  state->refresher->Resume();  // Before anybody can publish.
  state->connections->Start([hand_over = state->hand_over.get()](int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    hand_over->HandleNewConnection(&connection);
  });
  state->folder = std::make_unique<AutoFolder>(AutoFolder::Options{
      .manager = state->manager.get(), .jobs = state->jobs.get(), .clock = state->options.clock, .limits = state->options.fold});
  // From here on it is Stop that ends what these look at.
  state->metrics.SetSamples([state = state.get()] { return state->Samples(); });
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { Stop(); }

const std::string& Server::address() const { return state_->address; }
const std::string& Server::metrics_address() const { return state_->metrics_address; }
std::string Server::MetricsText() const { return state_->metrics.Text(); }

void Server::Stop() {
  State& state = *state_;
  MutexLock lock(&state.stop_mutex);
  if (std::exchange(state.stopped, true)) return;
  LogInfo("server", absl::StrCat("draining: ", state.requests->in_flight(), " requests and ", state.ingests->in_flight(), " ingests and ",
                                 state.exports->in_flight(), " exports in flight"));
  for (CudaHealth* const health : state.DeviceHealths()) health->SetListener(nullptr);
  state.SetHealth(false);
  state.requests->Drain();
  state.control->Drain();
  state.watches->Drain();
  state.ingests->Drain();
  state.exports->Drain();
  state.jobs->Drain();  // Who watches one lets go.
  state.manager->StopPlacing();  // An activation that waits for its upload ends without it.
  state.folder.reset();  // With what it has begun, which nobody waits for.
  const int64_t until_us = RealClock().NowMicros() + state.options.drain_timeout_ms * 1000;
  const auto left_ms = [until_us] { return std::max<int64_t>(0, (until_us - RealClock().NowMicros()) / 1000); };
  const bool idle =
      state.ingests->WaitUntilIdle(left_ms()) & state.requests->WaitUntilIdle(left_ms()) & state.control->WaitUntilIdle(left_ms()) &
      state.watches->WaitUntilIdle(left_ms()) & state.exports->WaitUntilIdle(left_ms());
  if (!idle) LogWarning("server", "the drain time is over: what is still in flight is cancelled");
  if (idle && !state.jobs->WaitUntilIdle(left_ms())) LogWarning("server", "the drain time is over: the jobs that run are cancelled");
  state.jobs->CancelAll();
  // What comes once gRPC shuts down it ends as CANCELLED: until then clients are told that the server drains, so that they go elsewhere.
  if (idle) state.requests->WaitUntilQuiet(kQuietMs, kMostQuietWaitMs);
  state.connections.reset();
  // Refuses connections and waits for answers on their way; what is left then is cancelled, which its reactors see as OnCancel.
  state.grpc_server->Shutdown(std::chrono::system_clock::now() + (idle ? kDeliveryTime : std::chrono::seconds(0)));
  state.grpc_server->Wait();
  {
    MutexLock health_lock(&state.health_mutex);
    state.grpc_server.reset();
  }
  state.hand_over.reset();
  state.CloseData();
  LogInfo("server", "stopped");
}

}  // namespace loci
