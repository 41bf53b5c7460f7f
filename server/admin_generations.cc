// AdminServiceImpl: generations.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/log_context.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "retriever/activation_gates.h"
#include "retriever/generation_comparison.h"
#include "retriever/job_progress.h"
#include "retriever/job_registry.h"
#include "retriever/reembedder.h"
#include "retriever/store_fidelity.h"
#include "retriever/store_tuner.h"
#include "server/admin_service.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {
namespace {

constexpr int64_t kYieldingEndMs = 10'000;  // So long a re-embedding waits for the end of a fold that gave way.

template <typename Response>
void FillActivation(const ActivationResult& result, bool done, Response* response) {
  response->set_generation(result.generation);
  if (result.view != nullptr) response->set_revision(result.view->revision());
  response->set_previous_generation(result.previous_generation);
  response->set_writes_since_count(result.writes_since_count);
  response->set_encoded_count(result.encoded_count);
  response->set_done(done);
}

// Of operations that nobody waits for, and of those that take hours: so that none waits behind a kind that takes longer. (Verifications, tunings and quantizations
// read all of a store once or a few times.)
ThreadPool& PoolOf(const ServiceContext& services, JobKind kind) {
  switch (kind) {
    case JobKind::kVerify:
    case JobKind::kTune:
    case JobKind::kQuantize:
      return *services.verify_pool;
    case JobKind::kReembed:
      return *services.reembed_pool;
    case JobKind::kFold:
      return *services.fold_pool;
    default:
      return *services.switch_pool;
  }
}

// Runs `operation`, which fills in a reply, as a job, and answers what it answers; or, with `no_wait`, answers at once and leaves it to
// a pool. What such an operation looks at is its own: its request's deadline and its client's leaving are nothing to it.
// Where `operation` succeeded, `follow` (may be null) may take the job over, to go on with it elsewhere, and then returns true.
template <typename Response>
absl::Status RunJob(const ServiceContext& services, JobSpec spec, bool no_wait,
                    std::function<absl::Status(const OperationControl&, Response*)> operation, Response* response,
                    std::function<bool(const std::shared_ptr<JobHandle>&, Response*)> follow = nullptr) {
  if (no_wait) spec.limits = RequestLimits();
  const bool builds = spec.kind == JobKind::kReembed || spec.kind == JobKind::kFold;
  ThreadPool& pool = PoolOf(services, spec.kind);
  const auto control_of = [builds](const std::shared_ptr<JobHandle>& job) { return ControlOf(job, builds ? kFoldSwitch : ""); };
  spec.request_id = CurrentRequestId();
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<JobHandle> job, services.jobs->Start(std::move(spec)));
  response->set_job(job->id());
  if (!no_wait) {
    const absl::Status status = operation(control_of(job), response);
    if (status.ok() && follow && follow(job, response)) return status;
    return job->Finish(status, status.ok() ? response->SerializeAsString() : "");
  }
  job->SetPhase("queued", 0, "");
  const bool queued = pool.TrySubmit([job, control_of, &clock = *services.clock, operation = std::move(operation), follow = std::move(follow),
                                    request_id = CurrentRequestId(), trace_id = CurrentTraceId()] {
    const ScopedLogContext context(request_id, trace_id);
    Response reply;
    reply.set_job(job->id());
    absl::Status status = job->limits().Check(clock.NowMicros());
    if (status.ok()) status = operation(control_of(job), &reply);
    if (status.ok() && follow && follow(job, &reply)) return;
    (void)job->Finish(status, status.ok() ? reply.SerializeAsString() : "");  // Which logs and keeps it.
  });
  if (queued) return absl::OkStatus();
  return job->Finish(ErrorWithReason(absl::ResourceExhaustedError("the queue of such jobs is full"), "OVERLOADED"));
}

// `control` with the gates as what must approve. Both are borrowed, as `figures`, which are filled in. Without `refuse` all is approved.
OperationControl WithGates(OperationControl control, const std::string& generation, const ActivationGates& gates, bool refuse,
                           std::vector<GateFigure>* figures) {
  if (gates.empty()) return control;
  control.approve = [&gates, generation, refuse, figures, limits = control.limits, progress = control.progress](
                        const std::shared_ptr<const Generation>& candidate, TextEncoder& encoder, const ServingSet* serving) -> absl::Status {
    const auto report = [&](int64_t done, int64_t total) {
      if (progress) progress("gates", done, total);
    };
    LOCI_ASSIGN_OR_RETURN(*figures, MeasureGates(gates, candidate, encoder, serving, limits, report));
    return refuse ? CheckGates(generation, *figures) : absl::OkStatus();
  };
  return control;
}

absl::Status NoGatesInPlace() { return InvalidField("gates", "can't be measured for IN_PLACE before what serves is freed"); }

// Measures the gates of a plan, by a dry run that refuses nothing for them; what else refuses it is a blocker.
absl::Status PlanGates(GenerationManager& manager, const std::string& store, const std::string& generation, const ActivationGates& gates,
                       const RequestLimits& limits, loci::v1::PlanActivationResponse* response) {
  if (gates.empty()) return absl::OkStatus();
  std::vector<GateFigure> figures;
  const OperationControl control = WithGates({.limits = limits}, generation, gates, /*refuse=*/false, &figures);
  const absl::Status ran = manager.Activate(store, generation, WritesPolicy::kReplay, /*dry_run=*/true, control).status();
  if (absl::IsCancelled(ran) || absl::IsDeadlineExceeded(ran) || absl::IsNotFound(ran)) return ran;
  FillGateFigures(figures, response->mutable_gate_figures());
  for (const absl::Status& status : {ran, CheckGates(generation, figures)}) {
    if (status.ok()) continue;
    const std::optional<ErrorReason> reason = GetErrorReason(status);
    const std::string name = reason.has_value() ? reason->reason : std::string(StdView(absl::StatusCodeToString(status.code())));
    const bool known = std::any_of(response->blockers().begin(), response->blockers().end(),
                                   [&](const std::string& blocker) { return blocker.starts_with(name + ":"); });
    if (!known) response->add_blockers(absl::StrCat(name, ": ", status.message()));
  }
  if (!response->blockers().empty()) response->set_can_activate(false);
  return absl::OkStatus();
}

// Looks after a generation that was activated just now: what was seen, or, where a condition failed and the store was rolled back for it (or
// could not be), why.
absl::StatusOr<std::string> WatchOrRollBack(const ServiceContext& services, const std::string& store, const std::string& generation,
                                            const WatchConditions& conditions, ActivationStrategy strategy,
                                            const std::shared_ptr<JobHandle>& job) {
  const auto is_serving = [&] {
    const absl::StatusOr<std::shared_ptr<const ServingSet>> active = services.manager->TryCapture(store, "");
    return active.ok() && *active != nullptr && (*active)->view->generation().id() == generation;
  };
  const auto report = [&job](int64_t done, int64_t) { job->SetDone(done); };
  absl::StatusOr<std::string> seen = services.activation_watches->Watch(store, generation, conditions, job->own_limits(), report, is_serving);
  if (seen.ok()) return seen;
  const OperationControl control{.limits = job->own_limits(), .progress = ProgressOf(job)};
  const absl::Status begun = job->BeginActivation();  // Others may activate meanwhile.
  const absl::StatusOr<ActivationResult> back =
      begun.ok() ? services.manager->Rollback(store, WritesPolicy::kReplay, /*dry_run=*/false, control, /*expected_active=*/generation, strategy)
                 : absl::StatusOr<ActivationResult>(begun);
  std::string outcome;
  if (back.ok()) {
    outcome = absl::StrCat("; rolled back to generation ", back->generation, ", revision ", back->view->revision());
    services.activation_watches->CountRollback();
  } else if (const std::optional<ErrorReason> why = GetErrorReason(back.status()); why.has_value() && why->reason == "NOT_ACTIVE") {
    outcome = absl::StrCat("; nothing was rolled back: ", back.status().message());
  } else {
    outcome = absl::StrCat("; it could not be rolled back and serves on: ", back.status().message());
  }
  const std::optional<ErrorReason> reason = GetErrorReason(seen.status());
  const absl::Status failed(seen.status().code(), absl::StrCat("generation ", generation, ", watched while it served, ", seen.status().message(), outcome));
  LogError("admin", absl::StrCat("store=", store, " ", failed.message()));
  return ErrorWithReason(failed, reason->reason, reason->metadata);
}

// Leaves the job of an activation that is done to a thread that looks after it and ends the job, whatever becomes of the request. False
// where there is nothing to look after. `place` is ActivationWatches::Reserve's.
bool WatchOn(const ServiceContext& services, const std::string& store, const WatchConditions& conditions, ActivationStrategy strategy,
             std::shared_ptr<void> place, const std::shared_ptr<JobHandle>& job, loci::v1::ActivateGenerationResponse* reply) {
  if (reply->previous_generation().empty() || reply->previous_generation() == reply->generation()) return false;
  job->SetPhase("watching", conditions.watch_us / 1000, "milliseconds");
  job->BeginWatch();
  const bool queued = services.watch_pool->TrySubmit([&services, store, conditions, strategy, place = std::move(place), job, result = *reply,
                                                      request_id = CurrentRequestId(), trace_id = CurrentTraceId()]() mutable {
    const ScopedLogContext context(request_id, trace_id);
    absl::StatusOr<std::string> seen = WatchOrRollBack(services, store, result.generation(), conditions, strategy, job);
    if (seen.ok()) result.set_watch_summary(*std::move(seen));
    place.reset();
    (void)job->Finish(seen.status(), seen.ok() ? result.SerializeAsString() : "");  // Which logs and keeps it.
  });
  reply->set_watching(queued);
  if (!queued) reply->set_watch_summary("not watched: the queue of watches is full");
  return queued;
}

}  // namespace

template <typename Response>
absl::StatusOr<CallRest> AdminServiceImpl::QueueJob(JobSpec spec, bool no_wait,
                                                                  std::function<absl::Status(const OperationControl&, Response*)> operation,
                                                                  Response* response) {
  if (no_wait) {
    LOCI_RETURN_IF_ERROR(RunJob<Response>(services_, std::move(spec), no_wait, std::move(operation), response));
    return CallRest();
  }
  CallRest rest{.pool = &PoolOf(services_, spec.kind)};
  const bool builds = spec.kind == JobKind::kReembed || spec.kind == JobKind::kFold;
  spec.request_id = CurrentRequestId();
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<JobHandle> job, services_.jobs->Start(std::move(spec)));
  response->set_job(job->id());
  job->SetPhase("queued", 0, "");
  rest.run = [job, builds, response, &clock = *services_.clock, operation = std::move(operation)] {
    absl::Status status = job->limits().Check(clock.NowMicros());
    if (status.ok()) status = operation(ControlOf(job, builds ? kFoldSwitch : ""), response);
    return job->Finish(status, status.ok() ? response->SerializeAsString() : "");
  };
  rest.refused = [job](absl::Status why) { return job->Finish(std::move(why)); };
  return rest;
}

grpc::ServerUnaryReactor* AdminServiceImpl::ListGenerations(grpc::CallbackServerContext* context,
                                                            const loci::v1::ListGenerationsRequest* request,
                                                            loci::v1::ListGenerationsResponse* response) {
  return Run(Method::kListGenerations, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_ASSIGN_OR_RETURN(const GenerationList list, services_.manager->ListGenerations(store));
    for (const GenerationInfo& info : list.generations) FillGeneration(info, response->add_generations());
    response->set_generation(list.active);
    response->set_revision(list.revision);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::ActivateGeneration(grpc::CallbackServerContext* context,
                                                               const loci::v1::ActivateGenerationRequest* request,
                                                               loci::v1::ActivateGenerationResponse* response) {
  return Run(Method::kActivateGeneration, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to activate");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const WritesPolicy policy, ValidateWritesSince(request->writes_since()));
    LOCI_ASSIGN_OR_RETURN(ActivationGates valid_gates, ValidateGates(request->gates()));
    const auto gates = std::make_shared<const ActivationGates>(std::move(valid_gates));
    LOCI_ASSIGN_OR_RETURN(const WatchConditions watch, ValidateWatch(request->watch()));
    LOCI_ASSIGN_OR_RETURN(const ActivationStrategy strategy, ValidateStrategy(request->strategy()));
    if (strategy == ActivationStrategy::kInPlace && gates->min_overlap_at_10.has_value()) {
      return InvalidField("gates.min_overlap_at_10", "can't be measured in place: what serves is freed before");
    }
    if (strategy == ActivationStrategy::kInPlace && request->dry_run() && !gates->empty()) return NoGatesInPlace();
    const auto activate = [&manager = *services_.manager, store, generation = request->generation(), policy, gates, strategy,
                           dry_run = request->dry_run()](
                              const OperationControl& job, loci::v1::ActivateGenerationResponse* reply) -> absl::Status {
      std::vector<GateFigure> figures;
      const OperationControl control = WithGates(job, generation, *gates, /*refuse=*/true, &figures);
      LOCI_ASSIGN_OR_RETURN(const ActivationResult result, manager.Activate(store, generation, policy, dry_run, control, strategy));
      FillGateFigures(figures, reply->mutable_gate_figures());
      FillActivation(result, !dry_run, reply);
      return absl::OkStatus();
    };
    if (strategy == ActivationStrategy::kInPlace) LOCI_RETURN_IF_ERROR(services_.training->CheckNotLeased(store, request->generation()));
    if (request->dry_run()) return activate({.limits = limits}, response);
    LOCI_RETURN_IF_ERROR(services_.manager->CheckGeneration(store, request->generation()));
    response->set_generation(request->generation());
    std::function<bool(const std::shared_ptr<JobHandle>&, loci::v1::ActivateGenerationResponse*)> follow;
    if (watch.watch_us > 0) {
      LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<void> place, services_.activation_watches->Reserve());
      follow = [&services = services_, store, watch, strategy, place](const std::shared_ptr<JobHandle>& job,
                                                                      loci::v1::ActivateGenerationResponse* reply) {
        return WatchOn(services, store, watch, strategy, place, job, reply);
      };
    }
    const int64_t start_us = services_.clock->NowMicros();
    const absl::Status activated = RunJob<loci::v1::ActivateGenerationResponse>(
        services_, {.kind = JobKind::kActivate, .store = store, .generation = request->generation(), .limits = limits}, request->no_wait(),
        activate, response, std::move(follow));
    const bool plain = gates->empty() && watch.watch_us == 0 && strategy == ActivationStrategy::kBlueGreen && response->encoded_count() == 0;
    if (activated.ok() && response->done() && plain && response->previous_generation() != response->generation()) {
      services_.manager->ObserveActivation(store, services_.clock->NowMicros() - start_us);
    }
    return activated;
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::DeleteGeneration(grpc::CallbackServerContext* context,
                                                             const loci::v1::DeleteGenerationRequest* request,
                                                             loci::v1::DeleteGenerationResponse*) {
  return Run(Method::kDeleteGeneration, context, request->ByteSizeLong(), [this, request](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to delete");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_RETURN_IF_ERROR(services_.jobs->CheckNoActivation(store));
    return services_.manager->DeleteGeneration(store, request->generation());
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::VerifyGeneration(grpc::CallbackServerContext* context,
                                                             const loci::v1::VerifyGenerationRequest* request,
                                                             loci::v1::VerifyGenerationResponse* response) {
  return Run(Method::kVerifyGeneration, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_RETURN_IF_ERROR(services_.manager->CheckGeneration(store, request->generation()));
    std::string generation = request->generation();
    if (generation.empty()) {
      LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> active, services_.manager->TryCapture(store, ""));
      generation = active->view->generation().id();
    }
    const auto verify = [&manager = *services_.manager, store, generation](
                            const OperationControl& control, loci::v1::VerifyGenerationResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(const VerifyResult result, manager.Verify(store, generation, control));
      reply->set_generation(result.generation);
      reply->set_file_count(result.file_count);
      reply->set_size_bytes(result.size_bytes);
      reply->set_revision(result.revision);
      reply->set_done(true);
      return absl::OkStatus();
    };
    response->set_generation(generation);
    return RunJob<loci::v1::VerifyGenerationResponse>(
        services_, {.kind = JobKind::kVerify, .store = store, .generation = generation, .limits = limits}, request->no_wait(), verify, response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::RollbackStore(grpc::CallbackServerContext* context, const loci::v1::RollbackStoreRequest* request,
                                                          loci::v1::RollbackStoreResponse* response) {
  return Run(Method::kRollbackStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_ASSIGN_OR_RETURN(const WritesPolicy policy, ValidateWritesSince(request->writes_since()));
    LOCI_ASSIGN_OR_RETURN(const ActivationStrategy strategy, ValidateStrategy(request->strategy()));
    const auto roll_back = [&manager = *services_.manager, store, policy, strategy, dry_run = request->dry_run()](
                               const OperationControl& control, loci::v1::RollbackStoreResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(const ActivationResult result, manager.Rollback(store, policy, dry_run, control, /*expected_active=*/{}, strategy));
      FillActivation(result, !dry_run, reply);
      return absl::OkStatus();
    };
    if (strategy == ActivationStrategy::kInPlace) LOCI_RETURN_IF_ERROR(services_.training->CheckNotLeased(store, /*target=*/""));
    if (request->dry_run()) return roll_back({.limits = limits}, response);
    LOCI_RETURN_IF_ERROR(services_.manager->GetStore(store).status());
    return RunJob<loci::v1::RollbackStoreResponse>(services_, {.kind = JobKind::kRollback, .store = store, .limits = limits},
                                                   request->no_wait(), roll_back, response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::FoldStore(grpc::CallbackServerContext* context, const loci::v1::FoldStoreRequest* request,
                                                      loci::v1::FoldStoreResponse* response) {
  return Run(Method::kFoldStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_RETURN_IF_ERROR(services_.manager->TryCapture(store, "").status());  // No job for what serves nothing.
    const auto fold = [&manager = *services_.manager, store](const OperationControl& control,
                                                             loci::v1::FoldStoreResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(const FoldResult result, manager.Fold(store, control));
      FillFold(result, reply);
      return absl::OkStatus();
    };
    return RunJob<loci::v1::FoldStoreResponse>(services_, {.kind = JobKind::kFold, .store = store, .limits = limits}, request->no_wait(), fold,
                                               response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::ReembedStore(grpc::CallbackServerContext* context, const loci::v1::ReembedStoreRequest* request,
                                                         loci::v1::ReembedStoreResponse* response) {
  return RunCallThen(services_, Method::kReembedStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::StatusOr<CallRest> {
    LOCI_ASSIGN_OR_RETURN(ReembedOptions options, ValidateReembed(*request));
    LOCI_RETURN_IF_ERROR(services_.manager->TryCapture(options.store, "").status());  // No job for what serves nothing.
    LOCI_ASSIGN_OR_RETURN(options.encoder, services_.manager->encoders().Get(request->encoder()));
    LOCI_ASSIGN_OR_RETURN(options.encoder, services_.manager->ForStore(options.store, std::move(options.encoder)));
    LOCI_RETURN_IF_ERROR(CheckReembedding(*services_.manager, options));
    if (request->dry_run()) {
      LOCI_ASSIGN_OR_RETURN(const ReembedEstimate estimate, EstimateReembedding(*services_.manager, options, limits));
      FillReembedEstimate(estimate, response);
      return CallRest();
    }
    const JobSpec spec{.kind = JobKind::kReembed, .store = options.store, .limits = limits};
    const auto reembed = [&services = services_, options](const OperationControl& control, loci::v1::ReembedStoreResponse* reply) -> absl::Status {
      services.jobs->EndYielding(options.store, kYieldingEndMs);  // A fold that gave way may be at its switch, and no other begins.
      LOCI_ASSIGN_OR_RETURN(const ReembedResult result, Reembed(*services.manager, options, control));
      FillReembed(result, reply);
      return absl::OkStatus();
    };
    return QueueJob<loci::v1::ReembedStoreResponse>(spec, request->no_wait(), reembed, response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::TuneStore(grpc::CallbackServerContext* context, const loci::v1::TuneStoreRequest* request,
                                                      loci::v1::TuneStoreResponse* response) {
  return RunCallThen(services_, Method::kTuneStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::StatusOr<CallRest> {
    LOCI_ASSIGN_OR_RETURN(ValidTune valid, ValidateTune(*request));
    LOCI_RETURN_IF_ERROR(services_.manager->TryCapture(valid.store, "").status());  // No job for what serves nothing.
    const auto tune = [&manager = *services_.manager, store = valid.store, options = std::move(valid.options)](
                          const OperationControl& control, loci::v1::TuneStoreResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(TuneResult result, loci::TuneStore(manager, store, options, control));
      reply->set_generation(result.generation);
      reply->set_revision(result.revision);
      *reply->mutable_tuning() = std::move(result.tuning);
      reply->set_done(true);
      return absl::OkStatus();
    };
    return QueueJob<loci::v1::TuneStoreResponse>({.kind = JobKind::kTune, .store = valid.store, .limits = limits}, request->no_wait(), tune,
                                                 response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::QuantizeStore(grpc::CallbackServerContext* context, const loci::v1::QuantizeStoreRequest* request,
                                                          loci::v1::QuantizeStoreResponse* response) {
  return RunCallThen(services_, Method::kQuantizeStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::StatusOr<CallRest> {
    LOCI_ASSIGN_OR_RETURN(const ValidQuantize valid, ValidateQuantize(*request));
    LOCI_RETURN_IF_ERROR(CheckStoreFidelity(*services_.manager, valid.store));  // No job for what can't be measured.
    const auto measure = [&manager = *services_.manager, valid](const OperationControl& control, loci::v1::QuantizeStoreResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(const storage::EncoderFidelity fidelity, MeasureStoreFidelity(manager, valid.store, valid.sample_count, control));
      reply->set_generation(fidelity.generation());
      reply->set_revision(fidelity.revision());
      FillFidelity(fidelity, reply->mutable_fidelity());
      reply->set_done(true);
      return absl::OkStatus();
    };
    return QueueJob<loci::v1::QuantizeStoreResponse>({.kind = JobKind::kQuantize, .store = valid.store, .limits = limits}, request->no_wait(), measure,
                                                     response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::PinGeneration(grpc::CallbackServerContext* context, const loci::v1::PinGenerationRequest* request,
                                                          loci::v1::PinGenerationResponse* response) {
  return Run(Method::kPinGeneration, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to pin");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const GenerationInfo info, services_.manager->PinGeneration(store, request->generation(), request->pinned()));
    FillGeneration(info, response->mutable_generation());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::PlanActivation(grpc::CallbackServerContext* context,
                                                           const loci::v1::PlanActivationRequest* request,
                                                           loci::v1::PlanActivationResponse* response) {
  return Run(Method::kPlanActivation, context, request->ByteSizeLong(), [this, request, response](const RequestLimits& limits) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to activate");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const ActivationGates gates, ValidateGates(request->gates()));
    LOCI_ASSIGN_OR_RETURN(const WritesPolicy policy, ValidateWritesSince(request->writes_since()));
    LOCI_ASSIGN_OR_RETURN(const ActivationStrategy strategy, ValidateStrategy(request->strategy()));
    if (strategy == ActivationStrategy::kInPlace && !gates.empty()) return NoGatesInPlace();
    LOCI_ASSIGN_OR_RETURN(const ActivationPlan plan, services_.manager->PlanActivation(store, request->generation(), policy, strategy));
    FillPlan(plan, response);
    if (strategy == ActivationStrategy::kInPlace) {
      if (const absl::Status leased = services_.training->CheckNotLeased(store, request->generation()); !leased.ok()) {
        response->add_blockers(absl::StrCat("HELD: ", leased.message()));
        response->set_can_activate(false);
      }
    }
    return PlanGates(*services_.manager, store, request->generation(), gates, limits, response);
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::CompareGenerations(grpc::CallbackServerContext* context,
                                                               const loci::v1::CompareGenerationsRequest* request,
                                                               loci::v1::CompareGenerationsResponse* response) {
  return Run(Method::kCompareGenerations, context, request->ByteSizeLong(),
             [this, request, response](const RequestLimits& limits) -> absl::Status {
               LOCI_ASSIGN_OR_RETURN(const ValidCompare valid, ValidateCompare(*request));
               LOCI_ASSIGN_OR_RETURN(GenerationComparison comparison,
                                     loci::CompareGenerations(*services_.manager, valid.store, request->generation_a(),
                                                              request->generation_b(), valid.queries, valid.top_k, limits));
               FillComparison(std::move(comparison), response);
               return CheckReplySize(*response);
             });
}

}  // namespace loci
