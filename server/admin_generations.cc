// AdminServiceImpl: generations.
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/log_context.h"
#include "base/status_macros.h"
#include "retriever/generation_comparison.h"
#include "retriever/job_registry.h"
#include "server/admin_service.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {
namespace {

template <typename Response>
void FillActivation(const ActivationResult& result, bool done, Response* response) {
  response->set_generation(result.generation);
  if (result.view != nullptr) response->set_revision(result.view->revision());
  response->set_previous_generation(result.previous_generation);
  response->set_writes_since_count(result.writes_since_count);
  response->set_done(done);
}

// What the job is asked, and what it shows of `operation`.
OperationControl ControlOf(const std::shared_ptr<JobHandle>& job) {
  OperationControl control{.limits = job->limits()};
  control.progress = [job, phase = std::string()](std::string_view name, int64_t done, int64_t total) mutable {
    if (name != phase) {
      phase = name;
      job->SetPhase(phase, total, "bytes");
    }
    job->SetDone(done);
  };
  control.chosen = [job](const std::string& generation) { job->SetGeneration(generation); };
  return control;
}

// Runs `operation`, which fills in a reply, as a job, and answers what it answers; or, with `no_wait`, answers at once and leaves it to
// a pool. What such an operation looks at is its own: its request's deadline and its client's leaving are nothing to it.
template <typename Response>
absl::Status RunJob(const ServiceContext& services, JobSpec spec, bool no_wait,
                    std::function<absl::Status(const OperationControl&, Response*)> operation, Response* response) {
  if (no_wait) spec.limits = RequestLimits();
  ThreadPool& pool = spec.kind == JobKind::kVerify ? *services.verify_pool : *services.switch_pool;
  spec.request_id = CurrentRequestId();
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<JobHandle> job, services.jobs->Start(std::move(spec)));
  response->set_job(job->id());
  if (!no_wait) {
    const absl::Status status = operation(ControlOf(job), response);
    return job->Finish(status, status.ok() ? response->SerializeAsString() : "");
  }
  job->SetPhase("queued", 0, "");
  const bool queued = pool.TrySubmit([job, &clock = *services.clock, operation = std::move(operation), request_id = CurrentRequestId(),
                                                     trace_id = CurrentTraceId()] {
    const ScopedLogContext context(request_id, trace_id);
    Response reply;
    reply.set_job(job->id());
    absl::Status status = job->limits().Check(clock.NowMicros());
    if (status.ok()) status = operation(ControlOf(job), &reply);
    (void)job->Finish(status, status.ok() ? reply.SerializeAsString() : "");  // Which logs and keeps it.
  });
  if (queued) return absl::OkStatus();
  return job->Finish(ErrorWithReason(absl::ResourceExhaustedError("the queue of such jobs is full"), "OVERLOADED"));
}

}  // namespace

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
    const auto activate = [&manager = *services_.manager, store, generation = request->generation(), policy, dry_run = request->dry_run()](
                              const OperationControl& control, loci::v1::ActivateGenerationResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(const ActivationResult result, manager.Activate(store, generation, policy, dry_run, control));
      FillActivation(result, !dry_run, reply);
      return absl::OkStatus();
    };
    if (request->dry_run()) return activate({.limits = limits}, response);
    LOCI_RETURN_IF_ERROR(services_.manager->CheckGeneration(store, request->generation()));
    response->set_generation(request->generation());
    return RunJob<loci::v1::ActivateGenerationResponse>(
        services_, {.kind = JobKind::kActivate, .store = store, .generation = request->generation(), .limits = limits}, request->no_wait(),
        activate, response);
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
    const auto roll_back = [&manager = *services_.manager, store, policy, dry_run = request->dry_run()](
                               const OperationControl& control, loci::v1::RollbackStoreResponse* reply) -> absl::Status {
      LOCI_ASSIGN_OR_RETURN(const ActivationResult result, manager.Rollback(store, policy, dry_run, control));
      FillActivation(result, !dry_run, reply);
      return absl::OkStatus();
    };
    if (request->dry_run()) return roll_back({.limits = limits}, response);
    LOCI_RETURN_IF_ERROR(services_.manager->GetStore(store).status());
    return RunJob<loci::v1::RollbackStoreResponse>(services_, {.kind = JobKind::kRollback, .store = store, .limits = limits},
                                                   request->no_wait(), roll_back, response);
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
  return Run(Method::kPlanActivation, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to activate");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const ActivationPlan plan, services_.manager->PlanActivation(store, request->generation()));
    FillPlan(plan, response);
    return absl::OkStatus();
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
