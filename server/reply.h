// What the pipeline and the generation manager answer, as messages.
#ifndef LOCI_SERVER_REPLY_H_
#define LOCI_SERVER_REPLY_H_

#include <vector>

#include "absl/status/status.h"
#include "base/vector_type.h"
#include "encoder/encoder.h"
#include "google/protobuf/message_lite.h"
#include "google/protobuf/repeated_field.h"
#include "proto/loci/storage/fidelity.pb.h"
#include "proto/loci/v1/admin.pb.h"
#include "proto/loci/v1/common.pb.h"
#include "proto/loci/v1/retrieval.pb.h"
#include "retriever/activation_gates.h"
#include "retriever/archive_importer.h"
#include "retriever/generation_comparison.h"
#include "retriever/generation_manager.h"
#include "retriever/ingester.h"
#include "retriever/job_registry.h"
#include "retriever/pipeline.h"
#include "retriever/reembedder.h"

namespace loci {

// Each fills an empty message; replies that are passed as rvalues are moved from.
void FillUsage(const TokenUsage& usage, loci::v1::TokenUsage* out);
void FillTimings(const PhaseTimes& times, loci::v1::Timings* out);
void FillHit(SearchHit&& hit, bool include_text, bool include_vectors, loci::v1::Hit* out);
void FillEncodeResponse(const EncodeReply& reply, ElementType vector_type, loci::v1::EncodeResponse* out);
void FillSearchResponse(SearchReply&& reply, bool include_text, bool include_vectors, loci::v1::SearchResponse* out);
void FillAnswerResponse(AnswerReply&& reply, const std::string& reader, loci::v1::AnswerResponse* out);
void FillIngestResponse(const IngestResult& result, loci::v1::IngestResponse* out);
void FillImportResponse(const ImportResult& result, loci::v1::ImportResponse* out);  // All but job and done.
void FillReembed(const ReembedResult& result, loci::v1::ReembedStoreResponse* out);
void FillReembedEstimate(const ReembedEstimate& estimate, loci::v1::ReembedStoreResponse* out);
void FillFold(const FoldResult& result, loci::v1::FoldStoreResponse* out);
void FillStore(const StoreInfo& info, loci::v1::Store* out);
void FillFidelity(const storage::EncoderFidelity& fidelity, loci::v1::EncoderFidelity* out);
void FillComparison(GenerationComparison&& comparison, loci::v1::CompareGenerationsResponse* out);
void FillGateFigures(const std::vector<GateFigure>& figures, google::protobuf::RepeatedPtrField<loci::v1::GateFigure>* out);
void FillPlan(const ActivationPlan& plan, loci::v1::PlanActivationResponse* out);
void FillGeneration(const GenerationInfo& info, loci::v1::Generation* out);
void FillJob(const JobInfo& info, loci::v1::Job* out);
void FillEncoderInfo(const EncoderSpec& spec, loci::v1::EncoderInfo* out);

// INVALID_ARGUMENT, reason REPLY_TOO_LARGE, with size and limit where the reply exceeds 64 MiB.
absl::Status CheckReplySize(const google::protobuf::MessageLite& reply);

}  // namespace loci

#endif  // LOCI_SERVER_REPLY_H_
