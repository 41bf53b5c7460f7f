#include "retriever/ingester.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <future>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/vector_type.h"
#include "index/content_hash.h"
#include "index/passage_index.h"
#include "retriever/passage_validation.h"
#include "retriever/recall_queries.h"

namespace loci {
namespace {

// Batches that are being encoded while the next ones are read: enough that the encoder never waits for the stream.
constexpr size_t kMaxPendingBatches = 4;
// Passages of one encoding or of one upsert.
constexpr size_t kBatchPassages = 256;
constexpr std::chrono::milliseconds kOverloadPause(50);

// Finite, also when rounded to the elements of the vector file.
absl::Status CheckStorable(const float* vector, int dim, ElementType type) {
  LOCI_RETURN_IF_ERROR(CheckVector(vector, dim));
  const float limit = LargestStorable(type);
  for (int d = 0; d < dim; ++d) {
    if (std::abs(vector[d]) > limit) {
      return absl::InvalidArgumentError(absl::StrCat("the vector has ", vector[d], " at position ", d, ", the limit of ",
                                                     AbslView(ElementTypeName(type)), " is ", limit));
    }
  }
  return absl::OkStatus();
}

}  // namespace

struct Ingester::State {
  GenerationManager* manager = nullptr;
  IngestOptions options;
  std::shared_ptr<TextEncoder> encoder;  // Null only for upserts into a store that has none yet.
  std::unique_ptr<GenerationBuilder> builder;  // New generation only.
  IngestResult result;
  int64_t line = 0;  // Passages seen.
  absl::flat_hash_set<ContentHash> ids;  // That came, where RemembersIds().

  // Batches on their way through the encoder, oldest first.
  struct Pending {
    std::vector<loci::v1::Passage> passages;
    std::future<absl::StatusOr<EncodedTexts>> encoded;
  };
  std::deque<Pending> pending;

  void Report(std::string_view phase, int64_t done, int64_t total) const {
    if (options.progress) options.progress(phase, done, total);
  }

  // A builder counts them itself, at its end.
  bool RemembersIds() const { return options.duplicates != LinePolicy::kDefault || options.mode == IngestMode::kUpsert; }

  absl::Status LineFailure(const loci::v1::Passage& passage, const absl::Status& status, std::string_view reason) const {
    std::map<std::string, std::string> metadata = {{"line", absl::StrCat(line)}};
    if (ValidatePassageId(passage.id()).ok()) metadata["id"] = passage.id();
    if (const std::optional<ErrorReason> cause = GetErrorReason(status); cause.has_value() && cause->metadata.contains("field")) {
      metadata["field"] = cause->metadata.at("field");
    }
    return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("passage ", line, " of the stream: ", status.message())), reason,
                           std::move(metadata));
  }

  // Counts a passage that can't be taken, or ends the ingest for it.
  absl::Status Reject(const loci::v1::Passage& passage, const absl::Status& status) {
    if (options.bad_lines == LinePolicy::kFail) return LineFailure(passage, status, "BAD_LINE");
    ++result.rejected_count;
    if (result.errors.size() < kMaxErrors) {
      // An id that is no UTF-8 can't be sent back.
      const bool printable = ValidatePassageId(passage.id()).ok();
      result.errors.push_back({line, printable ? passage.id() : "", std::string(StdView(status.message()))});
    }
    return absl::OkStatus();
  }

  // Whether a valid passage is to be taken.
  absl::StatusOr<bool> CheckDuplicate(const loci::v1::Passage& passage) {
    if (!RemembersIds() || ids.insert(HashContent(passage.id())).second) return true;
    if (options.duplicates == LinePolicy::kFail) {
      return LineFailure(passage, absl::InvalidArgumentError(absl::StrCat("id \"", passage.id(), "\" came before")), "DUPLICATE_ID");
    }
    ++result.duplicate_count;
    return options.duplicates == LinePolicy::kDefault;
  }

  std::future<absl::StatusOr<EncodedTexts>> StartEncoding(const std::vector<loci::v1::Passage>& passages) const {
    std::vector<std::string> texts;
    texts.reserve(passages.size());
    for (const loci::v1::Passage& passage : passages) texts.push_back(PassageText(passage.title(), passage.text()));
    auto promise = std::make_shared<std::promise<absl::StatusOr<EncodedTexts>>>();
    encoder->Encode(texts, {.role = TextRole::kPassage, .limits = options.limits},
                    [promise](absl::StatusOr<EncodedTexts> encoded) { promise->set_value(std::move(encoded)); });
    return promise->get_future();
  }

  absl::Status FinishOldest() {
    Pending oldest = std::move(pending.front());
    pending.pop_front();
    absl::StatusOr<EncodedTexts> encoded = oldest.encoded.get();
    // Other clients' work may fill the encoder's queue for a while; hours of ingest do not end for that.
    while (absl::IsResourceExhausted(encoded.status())) {
      LOCI_RETURN_IF_ERROR(options.limits.Check(RealClock().NowMicros()));
      std::this_thread::sleep_for(kOverloadPause);
      encoded = StartEncoding(oldest.passages).get();
    }
    LOCI_RETURN_IF_ERROR(encoded.status());
    LOCI_RETURN_IF_ERROR(builder->Add(oldest.passages, encoded->vectors.data()));
    result.accepted_count += static_cast<int64_t>(oldest.passages.size());
    return absl::OkStatus();
  }

  // Takes valid passages; `vectors` is empty or has a row for each.
  absl::Status Take(std::vector<loci::v1::Passage> passages, const std::vector<float>& vectors, int64_t dim) {
    const int64_t count = static_cast<int64_t>(passages.size());
    if (count == 0) return absl::OkStatus();
    if (options.mode == IngestMode::kUpsert) {
      absl::StatusOr<UpsertResult> upserted =
          vectors.empty() ? manager->Upsert(options.store, std::move(passages), options.limits)
                          : manager->UpsertVectors(options.store, std::move(passages), vectors.data(), static_cast<int>(dim),
                                                   encoder->spec().fingerprint.passage);
      LOCI_RETURN_IF_ERROR(upserted.status());
      result.generation = upserted->generation;
      result.revision = upserted->revision;
      result.accepted_count += count;
      result.passage_count += count;
      return absl::OkStatus();
    }
    if (!vectors.empty()) {
      LOCI_RETURN_IF_ERROR(builder->Add(passages, vectors.data()));
      result.accepted_count += count;
      return absl::OkStatus();
    }
    while (pending.size() >= kMaxPendingBatches) LOCI_RETURN_IF_ERROR(FinishOldest());
    std::future<absl::StatusOr<EncodedTexts>> encoded = StartEncoding(passages);
    pending.push_back({std::move(passages), std::move(encoded)});
    return absl::OkStatus();
  }
};

Ingester::Ingester(std::unique_ptr<State> state) : state_(std::move(state)) {}

Ingester::~Ingester() {
  if (state_ == nullptr) return;
  state_->options.limits.Cancel();
  for (State::Pending& pending : state_->pending) pending.encoded.wait();
}

absl::StatusOr<std::unique_ptr<Ingester>> Ingester::Start(GenerationManager& manager, IngestOptions options) {
  auto state = std::make_unique<State>();
  state->manager = &manager;

  if (absl::StatusOr<StoreInfo> store = manager.GetStore(options.store); absl::IsNotFound(store.status())) {
    absl::StatusOr<StoreInfo> created = manager.CreateStore(options.store);
    if (!created.ok() && !absl::IsAlreadyExists(created.status())) return created.status();
  } else if (!store.ok()) {
    return store.status();
  }

  if (!options.encoder_fingerprint.empty()) {
    const std::vector<std::string> halves = absl::StrSplit(options.encoder_fingerprint, ':');
    LOCI_ASSIGN_OR_RETURN(state->encoder, manager.encoders().ForPassageHalf(halves.back()));
  } else if (options.mode == IngestMode::kUpsert) {
    absl::StatusOr<std::shared_ptr<const ServingSet>> active = manager.Capture(options.store, "");
    if (active.ok()) state->encoder = (*active)->encoder;
  } else {
    LOCI_ASSIGN_OR_RETURN(state->encoder, manager.encoders().Get(""));
  }

  if (options.mode == IngestMode::kNewGeneration) {
    const EncoderSpec& spec = state->encoder->spec();
    BuildOptions build{.index = options.index,
                       .element_type = options.element_type,
                       .dim = spec.dim,
                       .query_fingerprint = spec.fingerprint.query,
                       .passage_fingerprint = spec.fingerprint.passage,
                       .base_revision = -1};
    build.recall_queries = [encoder = state->encoder, limits = options.limits](const std::vector<loci::v1::Passage>& sample) {
      return EncodeRecallQueries(*encoder, sample, limits);
    };
    build.recall_query_source = kRecallQuerySource;
    LOCI_ASSIGN_OR_RETURN(state->builder, manager.NewGeneration(options.store, std::move(build)));
  }
  state->options = std::move(options);
  state->Report("receiving", 0, 0);
  return std::unique_ptr<Ingester>(new Ingester(std::move(state)));
}

absl::Status Ingester::Add(std::vector<loci::v1::Passage> passages, const std::vector<float>& vectors, int64_t vector_dim) {
  State& state = *state_;
  const bool bring_vectors = !vectors.empty();
  if (bring_vectors) {
    if (state.options.encoder_fingerprint.empty()) {
      return ErrorWithReason(absl::InvalidArgumentError(
                                 "encoder_fingerprint is empty; the header must name the encoder of the vectors that come along"),
                             "INVALID_ARGUMENT", {{"field", "header.encoder_fingerprint"}});
    }
    const int64_t dim = state.encoder->spec().dim;
    const int64_t row_count = static_cast<int64_t>(vectors.size()) / std::max<int64_t>(vector_dim, 1);
    if (vector_dim != dim || row_count != static_cast<int64_t>(passages.size())) {
      return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("vectors is [", row_count, ", ", vector_dim, "]; it must be [",
                                                                     passages.size(), ", ", dim, "]")),
                             "INVALID_ARGUMENT", {{"field", "batch.vectors"}});
    }
  }
  std::vector<loci::v1::Passage> chunk;
  std::vector<float> chunk_vectors;
  for (size_t i = 0; i < passages.size(); ++i) {
    ++state.line;
    absl::Status valid = ValidatePassage(passages[i]);
    const float* vector = bring_vectors ? vectors.data() + static_cast<int64_t>(i) * vector_dim : nullptr;
    if (valid.ok() && bring_vectors) valid = CheckStorable(vector, static_cast<int>(vector_dim), state.options.element_type);
    if (!valid.ok()) {
      LOCI_RETURN_IF_ERROR(state.Reject(passages[i], valid));
      continue;
    }
    LOCI_ASSIGN_OR_RETURN(const bool wanted, state.CheckDuplicate(passages[i]));
    if (!wanted) continue;
    chunk.push_back(std::move(passages[i]));
    if (bring_vectors) chunk_vectors.insert(chunk_vectors.end(), vector, vector + vector_dim);
    if (chunk.size() == kBatchPassages) {
      LOCI_RETURN_IF_ERROR(state.Take(std::exchange(chunk, {}), chunk_vectors, vector_dim));
      chunk_vectors.clear();
    }
  }
  LOCI_RETURN_IF_ERROR(state.Take(std::move(chunk), chunk_vectors, vector_dim));
  state.Report("receiving", state.line, 0);
  return absl::OkStatus();
}

absl::StatusOr<IngestResult> Ingester::Finish() {
  State& state = *state_;
  while (!state.pending.empty()) LOCI_RETURN_IF_ERROR(state.FinishOldest());
  // A stream that broke off, or of which nothing could be taken, does not replace a corpus by nothing.
  if (state.line == 0) {
    return ErrorWithReason(absl::InvalidArgumentError("the stream had no passage; the store stays as it is"), "EMPTY_INGEST");
  }
  if (state.result.accepted_count == 0 || state.options.mode == IngestMode::kUpsert) return std::move(state.result);

  LOCI_ASSIGN_OR_RETURN(storage::Manifest manifest, state.builder->Finish(state.options.limits, state.options.progress));
  state.result.generation = manifest.generation();
  if (!state.RemembersIds()) state.result.duplicate_count = state.builder->duplicate_count();
  state.result.passage_count = manifest.passage_count();
  state.result.revision = manifest.base_revision();
  state.builder.reset();
  if (state.options.activate) state.Report("activating", 0, 0);  // Which may wait for another activation.
  // Whoever is gone by now did not see the build succeed; a broken stream may have held half a corpus.
  const auto give_up = [&](const absl::Status& status) {
    LOCI_RETURN_IF_ERROR(state.manager->DeleteGeneration(state.options.store, state.result.generation));
    return status;
  };
  if (absl::Status live = state.options.limits.Check(RealClock().NowMicros()); !live.ok()) return give_up(live);
  if (!state.options.activate) return std::move(state.result);
  absl::StatusOr<ActivationResult> activated =
      state.manager->Activate(state.options.store, state.result.generation, state.options.writes_since, /*dry_run=*/false,
                              {.limits = state.options.limits});
  if (absl::IsCancelled(activated.status()) || absl::IsDeadlineExceeded(activated.status())) return give_up(activated.status());
  if (!activated.ok()) {
    // The build is whole and stays, so that the operator can activate it with another policy.
    return Annotate(activated.status(), absl::StrCat("generation ", state.result.generation, " was built but not activated"));
  }
  state.result.revision = activated->view->revision();
  return std::move(state.result);
}

}  // namespace loci
