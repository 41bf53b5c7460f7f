// AdminServiceImpl: generations.
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "retriever/generation_comparison.h"
#include "server/admin_service.h"
#include "server/reply.h"
#include "server/request_errors.h"
#include "server/validation.h"

namespace loci {

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
  return Run(Method::kActivateGeneration, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->no_wait()) return NotAvailableYet("no_wait");
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to activate");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const WritesPolicy policy, ValidateWritesSince(request->writes_since()));
    LOCI_ASSIGN_OR_RETURN(const ActivationResult result,
                          services_.manager->Activate(store, request->generation(), policy, request->dry_run()));
    response->set_generation(request->generation());
    if (result.view != nullptr) response->set_revision(result.view->revision());
    response->set_previous_generation(result.previous_generation);
    response->set_writes_since_count(result.writes_since_count);
    response->set_done(!request->dry_run());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::DeleteGeneration(grpc::CallbackServerContext* context,
                                                             const loci::v1::DeleteGenerationRequest* request,
                                                             loci::v1::DeleteGenerationResponse*) {
  return Run(Method::kDeleteGeneration, context, request->ByteSizeLong(), [this, request](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to delete");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    return services_.manager->DeleteGeneration(store, request->generation());
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::VerifyGeneration(grpc::CallbackServerContext* context,
                                                             const loci::v1::VerifyGenerationRequest* request,
                                                             loci::v1::VerifyGenerationResponse* response) {
  return Run(Method::kVerifyGeneration, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    if (request->no_wait()) return NotAvailableYet("no_wait");
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const VerifyResult result, services_.manager->Verify(store, request->generation()));
    response->set_generation(result.generation);
    response->set_file_count(result.file_count);
    response->set_size_bytes(result.size_bytes);
    response->set_revision(result.revision);
    response->set_done(true);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::RollbackStore(grpc::CallbackServerContext* context, const loci::v1::RollbackStoreRequest* request,
                                                          loci::v1::RollbackStoreResponse* response) {
  return Run(Method::kRollbackStore, context, request->ByteSizeLong(), [this, request, response](const RequestLimits&) -> absl::Status {
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_ASSIGN_OR_RETURN(const WritesPolicy policy, ValidateWritesSince(request->writes_since()));
    LOCI_ASSIGN_OR_RETURN(const ActivationResult result, services_.manager->Rollback(store, policy, request->dry_run()));
    response->set_generation(result.generation);
    if (result.view != nullptr) response->set_revision(result.view->revision());
    response->set_previous_generation(result.previous_generation);
    response->set_writes_since_count(result.writes_since_count);
    response->set_done(!request->dry_run());
    return absl::OkStatus();
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
