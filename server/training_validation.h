// The requests of a training job, checked field by field and turned into what the training pipeline takes.
//
// Pure functions, free of gRPC. What needs the store (its dimension) or the handle (the columns of log_likelihoods) is checked by the layer that
// knows it. Errors as validation.h's.
#ifndef LOCI_SERVER_TRAINING_VALIDATION_H_
#define LOCI_SERVER_TRAINING_VALIDATION_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/vector_type.h"
#include "proto/loci/v1/training.pb.h"
#include "retriever/encoder_publisher.h"
#include "retriever/training_pipeline.h"

namespace loci {

inline constexpr int kMaxTrainingQueries = 4'096;
inline constexpr int64_t kMaxExcludedIds = 10'000;         // Of one query,
inline constexpr int64_t kMaxAllExcludedIds = 1'000'000;   // and of one request.
inline constexpr int64_t kMaxFeedbackElements = 16'777'216;  // Of one Backward.

// As OpenSessionRequest and RenewSessionRequest have it.
absl::Status ValidateLease(int32_t lease_ms);
absl::Status ValidateSessionId(const std::string& session_id);

absl::StatusOr<TrainingRetrieveCall> ValidateRetrieve(const loci::v1::RetrieveRequest& request, const RequestLimits& limits);

struct ValidBackward {
  TrainingBackwardCall call;
  ElementType vector_type = ElementType::kFloat32;  // Of the reply; or kFloat64.
};
absl::StatusOr<ValidBackward> ValidateBackward(const loci::v1::BackwardRequest& request, const RequestLimits& limits);

inline constexpr int64_t kMaxJobNameBytes = 256;
inline constexpr int64_t kMaxPublishMetrics = 64;
inline constexpr int64_t kMaxMetricNameBytes = 64;
inline constexpr double kDefaultPublishShare = 0.5;

struct ValidPublish {
  std::string store;               // Empty: none.
  std::string parent_fingerprint;  // Of the parent, which is still to be found.
  EncoderPublication publication;  // All but the parent.
  std::string fingerprint;         // Not empty: of an encoder that is there; there is no publication then.
  double max_encoder_share = kDefaultPublishShare;
  bool activate = true;
};
absl::StatusOr<ValidPublish> ValidatePublishHeader(const loci::v1::PublishHeader& header);

}  // namespace loci

#endif  // LOCI_SERVER_TRAINING_VALIDATION_H_
