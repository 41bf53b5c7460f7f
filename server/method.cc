#include "server/method.h"

namespace loci {
namespace {

constexpr std::string_view kMethodNames[kMethodCount] = {
    "Encode",           "Search",          "Answer",        "CreateStore",      "GetStore",           "ListStores",
    "DeleteStore",      "UpdateStore",     "Ingest",          "ExportStore",     "ImportStore",   "UpsertPassages", "DeletePassages",   "GetPassages",        "ListGenerations",
    "ActivateGeneration", "RollbackStore", "FoldStore", "ReembedStore", "ImportEncoder", "TuneStore", "QuantizeStore", "DeleteGeneration", "PinGeneration",  "VerifyGeneration", "PlanActivation", "CompareGenerations",
    "GetJob",           "ListJobs",        "CancelJob",     "WatchJob",         "GetServerInfo",
    "OpenSession", "RenewSession", "CloseSession", "Retrieve", "Backward", "PublishEncoder"};

}  // namespace

std::string_view MethodName(Method method) { return kMethodNames[static_cast<int>(method)]; }

bool HasPhases(Method method) {
  return method == Method::kEncode || method == Method::kSearch || method == Method::kAnswer || method == Method::kUpsertPassages ||
         method == Method::kRetrieve || method == Method::kBackward;
}

bool IsControl(Method method) {
  switch (method) {
    case Method::kGetStore:
    case Method::kListStores:
    case Method::kListGenerations:
    case Method::kGetJob:
    case Method::kListJobs:
    case Method::kCancelJob:
    case Method::kWatchJob:
    case Method::kGetServerInfo:
    case Method::kRenewSession:
    case Method::kCloseSession:
      return true;
    default:
      return false;
  }
}

}  // namespace loci
