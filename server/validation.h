// Requests as they come, checked field by field and turned into the native types that the pipeline and the generation manager take.
//
// Pure functions, free of gRPC: they read their arguments and nothing else. Every limit that the protos state is enforced here, or
// by the layer that alone knows it (a store's dimension, an index's list count). Errors: INVALID_ARGUMENT names field, value and
// limit; NOT_FOUND a name that can't be one of anything.
#ifndef LOCI_SERVER_VALIDATION_H_
#define LOCI_SERVER_VALIDATION_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/vector_type.h"
#include "index/passage_index.h"
#include "index/settings_file.h"
#include "proto/loci/v1/admin.pb.h"
#include "proto/loci/v1/common.pb.h"
#include "proto/loci/v1/retrieval.pb.h"
#include "retriever/activation_gates.h"
#include "retriever/activation_watch.h"
#include "retriever/archive_importer.h"
#include "retriever/ingester.h"
#include "retriever/pipeline.h"
#include "retriever/reembedder.h"
#include "retriever/store_tuner.h"
#include "server/field_checks.h"
#include "server/matrix_codec.h"

namespace loci {

inline constexpr int64_t kMaxMessageBytes = int64_t{64} << 20;
inline constexpr int kMaxTexts = 2'048;
inline constexpr int kMaxQueries = 1'024;
inline constexpr int64_t kMaxHits = 1'000'000;  // queries x top_k of one request.
inline constexpr int kMaxEfSearch = 100'000;
inline constexpr int64_t kMaxRescored = 10'000'000;  // Candidates that all queries of one request may ask to be rescored.
inline constexpr int kMaxAnswerPassages = 100;
inline constexpr int kDefaultAnswerPassages = 5;
inline constexpr int kMaxAnswers = 100;
inline constexpr int kMaxCompareTopK = 1'000;
inline constexpr int64_t kMaxComparedHits = 100'000;  // Of all queries, on each side.
inline constexpr int kDefaultCompareTopK = 10;
inline constexpr int64_t kMaxWatchMs = 86'400'000;
inline constexpr int64_t kMaxJudgements = 100'000;  // Of all queries of an activation's gates.
inline constexpr int kMaxPassages = 10'000;  // Of one batch, upsert, deletion or read.
inline constexpr int64_t kMaxIdBytes = 512;
inline constexpr char kDefaultStore[] = "default";

// The store that a request names: "default" for the empty name. INVALID_ARGUMENT for a name that no store can have.
absl::StatusOr<std::string> ValidateStore(std::string_view store);

// A generation that a request names, empty included. NOT_FOUND where no generation can have that name ([A-Za-z0-9_.-], up to 64
// characters, not starting with a dot), so that it never becomes a path.
absl::Status ValidateGeneration(std::string_view store, std::string_view generation);

// All but top_k and limits, of a request with so many queries.
absl::StatusOr<IndexSearchOptions> ValidateSearchOptions(const loci::v1::SearchOptions& options, int64_t top_k, int64_t query_count);

struct ValidEncode {
  EncodeCall call;
  ElementType vector_type = ElementType::kFloat32;  // Of the reply.
};
absl::StatusOr<ValidEncode> ValidateEncode(const loci::v1::EncodeRequest& request, const RequestLimits& limits);
absl::StatusOr<SearchCall> ValidateSearch(const loci::v1::SearchRequest& request, const RequestLimits& limits);
absl::StatusOr<AnswerCall> ValidateAnswer(const loci::v1::AnswerRequest& request, const RequestLimits& limits);

absl::StatusOr<IngestOptions> ValidateIngestHeader(const loci::v1::IngestHeader& header, const RequestLimits& limits);
// All but the encoder, which must be named.
absl::StatusOr<ReembedOptions> ValidateReembed(const loci::v1::ReembedStoreRequest& request);
absl::StatusOr<ImportOptions> ValidateImportHeader(const loci::v1::ImportHeader& header, const RequestLimits& limits);
// The vectors that come with a batch of an ingest; no values where the texts are to be encoded. Values may be non-finite: Ingester
// counts such passages as rejected.
absl::StatusOr<DecodedMatrix> ValidateBatch(const loci::v1::PassageBatch& batch);

struct ValidUpsert {
  std::string store;
  std::vector<loci::v1::Passage> passages;
};
absl::StatusOr<ValidUpsert> ValidateUpsert(const loci::v1::UpsertPassagesRequest& request);

struct ValidDelete {
  std::string store;
  std::vector<std::string> ids;
};
absl::StatusOr<ValidDelete> ValidateDelete(const loci::v1::DeletePassagesRequest& request);

// The store of a GetPassagesRequest whose ids and generation are in order.
absl::StatusOr<std::string> ValidateGetPassages(const loci::v1::GetPassagesRequest& request);

// The store of a DeleteStoreRequest whose confirm_name repeats it.
absl::StatusOr<std::string> ValidateDeleteStore(const loci::v1::DeleteStoreRequest& request);

// As CreateStoreRequest and UpdateStoreRequest have it.
absl::Status ValidateKeepGenerations(int32_t keep_generations);
// The same, of encoder_precision: whether it is "int8", not "auto".
absl::StatusOr<bool> ValidateStorePrecision(const std::string& encoder_precision);

struct ValidCompare {
  std::string store;
  std::vector<std::string> queries;
  int top_k = 0;
};
absl::StatusOr<ValidCompare> ValidateCompare(const loci::v1::CompareGenerationsRequest& request);

struct ValidTune {
  std::string store;
  TuneOptions options;
};
absl::StatusOr<ValidTune> ValidateTune(const loci::v1::TuneStoreRequest& request);

struct ValidQuantize {
  std::string store;
  int64_t sample_count = 0;
};
absl::StatusOr<ValidQuantize> ValidateQuantize(const loci::v1::QuantizeStoreRequest& request);

// No queries where `gates` has neither them nor conditions. INVALID_ARGUMENT for conditions without queries, for quality without judgements.
absl::StatusOr<ActivationGates> ValidateGates(const loci::v1::ActivationGates& gates);

absl::StatusOr<WatchConditions> ValidateWatch(const loci::v1::ActivationWatch& watch);

absl::StatusOr<WritesPolicy> ValidateWritesSince(loci::v1::WritesSince writes_since);
absl::StatusOr<ActivationStrategy> ValidateStrategy(loci::v1::ActivationStrategy strategy);

}  // namespace loci

#endif  // LOCI_SERVER_VALIDATION_H_
