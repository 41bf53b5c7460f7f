// AdminServiceImpl: generations.
#include <string>

#include "base/status_macros.h"
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
    if (request->generation().empty()) return InvalidField("generation", "is empty; it must name the generation to activate");
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const WritesPolicy policy, ValidateWritesSince(request->writes_since()));
    LOCI_ASSIGN_OR_RETURN(const ActivationResult result,
                          services_.manager->Activate(store, request->generation(), policy, request->dry_run()));
    response->set_generation(request->generation());
    if (result.view != nullptr) response->set_revision(result.view->revision());
    response->set_previous_generation(result.previous_generation);
    response->set_writes_since_count(result.writes_since_count);
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
    LOCI_ASSIGN_OR_RETURN(const std::string store, ValidateStore(request->store()));
    LOCI_RETURN_IF_ERROR(ValidateGeneration(store, request->generation()));
    LOCI_ASSIGN_OR_RETURN(const VerifyResult result, services_.manager->Verify(store, request->generation()));
    response->set_generation(result.generation);
    response->set_file_count(result.file_count);
    response->set_size_bytes(result.size_bytes);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::RollbackStore(grpc::CallbackServerContext* context, const loci::v1::RollbackStoreRequest*,
                                                          loci::v1::RollbackStoreResponse*) {
  return Refuse(Method::kRollbackStore, context);
}
grpc::ServerUnaryReactor* AdminServiceImpl::PlanActivation(grpc::CallbackServerContext* context, const loci::v1::PlanActivationRequest*,
                                                           loci::v1::PlanActivationResponse*) {
  return Refuse(Method::kPlanActivation, context);
}
grpc::ServerUnaryReactor* AdminServiceImpl::CompareGenerations(grpc::CallbackServerContext* context,
                                                               const loci::v1::CompareGenerationsRequest*,
                                                               loci::v1::CompareGenerationsResponse*) {
  return Refuse(Method::kCompareGenerations, context);
}

}  // namespace loci
