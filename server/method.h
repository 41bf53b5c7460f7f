// The methods of all services, for metrics, limits and logs.
#ifndef LOCI_SERVER_METHOD_H_
#define LOCI_SERVER_METHOD_H_

#include <string_view>

namespace loci {

enum class Method {
  kEncode,
  kSearch,
  kAnswer,
  kCreateStore,
  kGetStore,
  kListStores,
  kDeleteStore,
  kUpdateStore,
  kIngest,
  kExportStore,
  kImportStore,
  kUpsertPassages,
  kDeletePassages,
  kGetPassages,
  kListGenerations,
  kActivateGeneration,
  kRollbackStore,
  kFoldStore,
  kReembedStore,
  kImportEncoder,
  kTuneStore,
  kQuantizeStore,
  kDeleteGeneration,
  kPinGeneration,
  kVerifyGeneration,
  kPlanActivation,
  kCompareGenerations,
  kGetJob,
  kListJobs,
  kCancelJob,
  kWatchJob,
  kGetServerInfo,
  kOpenSession,
  kRenewSession,
  kCloseSession,
  kRetrieve,
  kBackward,
  kPublishEncoder,
};
inline constexpr int kMethodCount = static_cast<int>(Method::kPublishEncoder) + 1;
std::string_view MethodName(Method method);  // "Encode"
// Whether it looks after the server: reads of its state, cancelling and watching jobs, leases of sessions. Short, and needed most when there is much else.
bool IsControl(Method method);

// Whether it goes through phases: tokenize, encode, search, fetch, read.
bool HasPhases(Method method);

}  // namespace loci

#endif  // LOCI_SERVER_METHOD_H_
