#include "retriever/ingester.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/field_error.h"
#include "base/hex.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/vector_type.h"
#include "index/content_hash.h"
#include "index/passage_index.h"
#include "retriever/document_chunker.h"
#include "retriever/passage_sink.h"
#include "retriever/passage_validation.h"
#include "retriever/recall_queries.h"

namespace loci {
namespace {

// Passages of one encoding or of one upsert.
constexpr size_t kBatchPassages = 256;
constexpr int64_t kBatchBytes = 4 << 20;  // Of those that documents are cut into.

// Finite, also when rounded to the elements of the vector file.
absl::Status CheckStorable(const float* vector, int dim, ElementType type) {
  LOCI_RETURN_IF_ERROR(CheckVector(vector, dim));
  const float limit = LargestStorable(type);
  for (int d = 0; d < dim; ++d) {
    if (std::abs(vector[d]) > limit) {
      return FieldError("vector", absl::StrCat("the vector has ", vector[d], " at position ", d, ", the limit of ",
                                                 AbslView(ElementTypeName(type)), " is ", limit));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ChunkingOptions> CheckChunking(ChunkingOptions chunking, int max_length) {
  const auto refuse = [](std::string_view field, int value, int least, int most) {
    const std::string name = absl::StrCat("header.chunking.", AbslView(field));
    return FieldError(name, absl::StrCat(name, " is ", value, "; it must be from ", least, " to ", most));
  };
  if (chunking.max_tokens == 0) chunking.max_tokens = max_length;
  if (chunking.max_tokens < DocumentChunker::kMinTokens || chunking.max_tokens > max_length) {
    return refuse("max_tokens", chunking.max_tokens, DocumentChunker::kMinTokens, max_length);
  }
  if (chunking.overlap_tokens < 0 || chunking.overlap_tokens > chunking.max_tokens / 2) {
    return refuse("overlap_tokens", chunking.overlap_tokens, 0, chunking.max_tokens / 2);
  }
  return chunking;
}

// Upserts are searched together with the active generation's passages, so by its encoder only.
absl::Status CheckUpsertEncoder(GenerationManager& manager, const std::string& store, const EncoderSpec& spec) {
  const absl::StatusOr<std::shared_ptr<const ServingSet>> active = manager.Capture(store, "");
  if (!active.ok()) return absl::OkStatus();  // There is none: the first upsert makes one.
  const std::string& half = (*active)->view->generation().manifest().passage_fingerprint();
  if (half == spec.fingerprint.passage) return absl::OkStatus();
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat("header.encoder_fingerprint names the passage half ", spec.fingerprint.passage,
                                                 ", the store's active generation is of ", half,
                                                 "; leave it out, or ingest a new generation")),
      "ENCODER_MISMATCH", {{"passage_fingerprint", spec.fingerprint.passage}, {"active_passage_fingerprint", half}});
}

// The document whose sections come.
struct Document {
  std::string key;
  int32_t chunk_index = 0;   // Of its next passage.
  bool came_before = false;  // One with that key did.
  bool left_out = false;
};

}  // namespace

struct Ingester::State {
  GenerationManager* manager = nullptr;
  IngestOptions options;
  std::shared_ptr<TextEncoder> encoder;  // Null only for upserts into a store that has none yet.
  std::unique_ptr<GenerationBuilder> builder;  // New generation only.
  IngestResult result;
  int64_t line = 0;  // Passages seen.
  absl::flat_hash_set<ContentHash> ids;  // That came, where RemembersIds().

  std::unique_ptr<PassageSink> sink;
  // With chunking.
  std::unique_ptr<DocumentChunker> chunker;
  std::optional<Document> document;
  absl::flat_hash_map<ContentHash, int32_t> documents;  // How many passages the last with that key had.
  std::vector<loci::v1::Passage> chunks;                // Not given to the sink yet.
  int64_t chunk_bytes = 0;                              // Of `chunks`.

  void Report(std::string_view phase, int64_t done, int64_t total) const {
    if (options.progress) options.progress(phase, done, total);
  }

  // A builder counts them itself, at its end.
  bool RemembersIds() const {
    return options.duplicates != LinePolicy::kDefault || options.mode == IngestMode::kUpsert || chunker != nullptr;
  }

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

  absl::Status DuplicateFailure(const loci::v1::Passage& passage, const std::string& key) const {
    return LineFailure(passage, FieldError(key == passage.id() ? "id" : "document_id", absl::StrCat("id \"", key, "\" came before")), "DUPLICATE_ID");
  }

  // Whether a valid passage is to be taken.
  absl::StatusOr<bool> CheckDuplicate(const loci::v1::Passage& passage) {
    if (!RemembersIds() || ids.insert(HashContent(passage.id())).second) return true;
    if (options.duplicates == LinePolicy::kFail) return DuplicateFailure(passage, passage.id());
    ++result.duplicate_count;
    return options.duplicates == LinePolicy::kDefault;
  }

  absl::Status TakeChunks() {
    chunk_bytes = 0;
    return sink->Take(std::exchange(chunks, {}), nullptr);
  }

  // The next one has another key, or there is none: what an earlier document of that key had more of goes.
  absl::Status EndDocument() {
    if (!document.has_value()) return absl::OkStatus();
    const Document ended = *std::exchange(document, std::nullopt);
    // Where nothing could be taken of it, it does not count as having come: what is there of that key stays.
    if (ended.left_out || ended.chunk_index == 0) return absl::OkStatus();
    int32_t& passage_count = documents[HashContent(ended.key)];
    const int32_t earlier_count = std::exchange(passage_count, ended.chunk_index);
    std::vector<std::string> stale;
    for (int32_t i = ended.chunk_index; i < earlier_count; ++i) stale.push_back(ChunkId(ended.key, i));
    if (options.mode == IngestMode::kUpsert) LOCI_RETURN_IF_ERROR(FindStored(ended, std::max(ended.chunk_index, earlier_count), &stale));
    if (stale.empty()) return absl::OkStatus();
    LOCI_RETURN_IF_ERROR(TakeChunks());
    return sink->Remove(stale);
  }

  // Adds the passages from `first` on that the store has of a document.
  absl::Status FindStored(const Document& ended, int32_t first, std::vector<std::string>* ids) const {
    const absl::StatusOr<std::shared_ptr<const ServingSet>> active = manager->Capture(options.store, "");
    if (!active.ok()) return absl::OkStatus();  // There is none yet.
    const View& view = *(*active)->view;
    for (int32_t i = first;; ++i) {
      const std::string id = ChunkId(ended.key, i);
      LOCI_ASSIGN_OR_RETURN(const std::optional<ViewRow> row, view.Find(id));
      if (!row.has_value()) return absl::OkStatus();
      std::vector<loci::v1::Passage> passages;
      LOCI_RETURN_IF_ERROR(view.Read(std::vector<ViewRow>{*row}, &passages));
      if (passages[0].document_id() == ended.key) ids->push_back(id);
    }
  }

  // Takes a document, or the next section of one.
  absl::Status AddSection(loci::v1::Passage section) {
    if (const absl::Status valid = ValidateDocumentSection(section); !valid.ok()) return Reject(section, valid);
    if (!document.has_value() || document->key != DocumentKey(section)) {
      LOCI_RETURN_IF_ERROR(EndDocument());
      document = Document{.key = DocumentKey(section)};
      document->came_before = documents.contains(HashContent(document->key));
      if (document->came_before && options.duplicates == LinePolicy::kFail) return DuplicateFailure(section, document->key);
      document->left_out = document->came_before && options.duplicates == LinePolicy::kSkip;
    }
    result.duplicate_count += document->came_before;
    if (document->left_out) return absl::OkStatus();
    const int32_t first = document->chunk_index;
    LOCI_RETURN_IF_ERROR(chunker->Cut(section, &document->chunk_index, [this](loci::v1::Passage passage) {
      chunk_bytes += static_cast<int64_t>(passage.ByteSizeLong());
      chunks.push_back(std::move(passage));
      return chunks.size() == kBatchPassages || chunk_bytes >= kBatchBytes ? TakeChunks() : absl::OkStatus();
    }));
    if (document->chunk_index == first) return Reject(section, FieldError("text", "text is nothing but white space, and title is empty"));
    ++result.accepted_count;
    return absl::OkStatus();
  }
};

Ingester::Ingester(std::unique_ptr<State> state) : state_(std::move(state)) {}

Ingester::~Ingester() {
  if (state_ != nullptr && state_->sink != nullptr) state_->options.limits.Cancel();
}

absl::StatusOr<std::unique_ptr<Ingester>> Ingester::Start(GenerationManager& manager, IngestOptions options) {
  auto state = std::make_unique<State>();
  state->manager = &manager;

  if (!options.encoder_fingerprint.empty()) {
    const std::vector<std::string> halves = absl::StrSplit(options.encoder_fingerprint, ':');
    // That very encoder where both halves are named: several may have the passage half. (A folder is looked for by them.)
    const bool is_whole = halves.size() == 2 && IsHex(halves[0], kHalfDigits) && IsHex(halves[1], kHalfDigits);
    LOCI_ASSIGN_OR_RETURN(state->encoder, is_whole ? manager.encoders().ForVectors({.query = halves[0], .passage = halves[1]})
                                                   : manager.encoders().ForPassageHalf(halves.back()));
    if (options.mode == IngestMode::kUpsert) LOCI_RETURN_IF_ERROR(CheckUpsertEncoder(manager, options.store, state->encoder->spec()));
  } else if (options.mode == IngestMode::kUpsert) {
    absl::StatusOr<std::shared_ptr<const ServingSet>> active = manager.Capture(options.store, "");
    if (active.ok()) {
      const absl::StatusOr<std::shared_ptr<const ServingSet>> with_encoder = manager.WithEncoder(*std::move(active));
      // Another's tokenizer would cut other passages.
      if (!with_encoder.ok() && options.chunking.has_value()) return with_encoder.status();
      if (with_encoder.ok()) state->encoder = (*with_encoder)->encoder;
    } else if (options.chunking.has_value()) {
      LOCI_ASSIGN_OR_RETURN(state->encoder, manager.encoders().Get(""));
    }
  } else if (!options.imported.has_value()) {
    LOCI_ASSIGN_OR_RETURN(state->encoder, manager.encoders().Get(""));
  }

  if (state->encoder != nullptr) {
    LOCI_ASSIGN_OR_RETURN(state->encoder, manager.ForStore(options.store, std::move(state->encoder)));
  }

  if (options.chunking.has_value()) {
    const EncoderSpec& spec = state->encoder->spec();
    LOCI_ASSIGN_OR_RETURN(const ChunkingOptions chunking, CheckChunking(*options.chunking, spec.max_length));
    state->chunker = std::make_unique<DocumentChunker>(
        state->encoder->encoder().tokenizer(),
        DocumentChunker::Options{
            .max_tokens = chunking.max_tokens, .overlap_tokens = chunking.overlap_tokens, .prefix = spec.passage_prefix});
  }

  // Last of what can be refused, so that a refused header leaves no store.
  if (absl::StatusOr<StoreInfo> store = manager.GetStore(options.store); absl::IsNotFound(store.status())) {
    absl::StatusOr<StoreInfo> created = manager.CreateStore(options.store);
    if (!created.ok() && !absl::IsAlreadyExists(created.status())) return created.status();
  } else if (!store.ok()) {
    return store.status();
  }
  if (options.mode == IngestMode::kNewGeneration) {
    BuildOptions build{.index = options.index,
                       .element_type = options.element_type,
                       .base_revision = -1,
                       .expected_passages = options.expected_passages};
    if (options.imported.has_value()) {
      build.dim = options.imported->dim;
      build.query_fingerprint = options.imported->query_fingerprint;
      build.passage_fingerprint = options.imported->passage_fingerprint;
    } else {
      const EncoderSpec& spec = state->encoder->spec();
      build.dim = spec.dim;
      build.query_fingerprint = spec.fingerprint.query;
      build.passage_fingerprint = spec.fingerprint.passage;
    }
    if (state->encoder != nullptr) {
      build.recall_queries = [encoder = state->encoder, limits = options.limits](const std::vector<loci::v1::Passage>& sample) {
        return EncodeRecallQueries(*encoder, sample, limits);
      };
      build.recall_query_source = kRecallQuerySource;
    }
    LOCI_ASSIGN_OR_RETURN(state->builder, manager.NewGeneration(options.store, std::move(build)));
  }
  state->options = std::move(options);
  state->Report("receiving", 0, 0);
  const IngestOptions& taken = state->options;
  state->sink = std::make_unique<PassageSink>(PassageSink::Options{.manager = &manager,
                                                                   .store = taken.store,
                                                                   .encoder = state->encoder,
                                                                   .builder = state->builder.get(),
                                                                   .element_type = taken.element_type,
                                                                   .given_precisions = taken.imported.has_value() ? taken.imported->precisions
                                                                                                                  : VectorPrecision::kUnknown,
                                                                   .reencode = taken.reencode,
                                                                   .limits = taken.limits,
                                                                   .on_written = [state = state.get()](int64_t count) {
                                                                     state->Report("receiving", count, 0);
                                                                   }});
  return std::unique_ptr<Ingester>(new Ingester(std::move(state)));
}

absl::Status Ingester::Add(std::vector<loci::v1::Passage> passages, const std::vector<float>& vectors, int64_t vector_dim) {
  State& state = *state_;
  const bool bring_vectors = !vectors.empty();
  if (bring_vectors) {
    if (state.options.encoder_fingerprint.empty() && !state.options.imported.has_value()) {
      return FieldError("header.encoder_fingerprint",
                          "encoder_fingerprint is empty; the header must name the encoder of the vectors that come along");
    }
    const int64_t dim = state.options.imported.has_value() ? state.options.imported->dim : state.encoder->spec().dim;
    const int64_t row_count = static_cast<int64_t>(vectors.size()) / std::max<int64_t>(vector_dim, 1);
    if (vector_dim != dim || row_count != static_cast<int64_t>(passages.size())) {
      return FieldError("batch.vectors", absl::StrCat("vectors is [", row_count, ", ", vector_dim, "]; it must be [", passages.size(), ", ", dim, "]"));
    }
  }
  if (state.chunker != nullptr) {
    if (bring_vectors) {
      return FieldError("batch.vectors", "batch.vectors does not go with header.chunking: passages are cut here, and encoded");
    }
    for (loci::v1::Passage& passage : passages) {
      ++state.line;
      LOCI_RETURN_IF_ERROR(state.AddSection(std::move(passage)));
    }
    return absl::OkStatus();
  }
  std::vector<loci::v1::Passage> batch;
  std::vector<float> batch_vectors;
  const auto take_batch = [&] {
    const absl::Status taken = state.sink->Take(std::exchange(batch, {}), bring_vectors ? batch_vectors.data() : nullptr);
    batch_vectors.clear();
    return taken;
  };
  for (size_t i = 0; i < passages.size(); ++i) {
    ++state.line;
    absl::Status valid = state.options.imported.has_value() ? ValidateStoredPassage(passages[i]) : ValidatePassage(passages[i]);
    const float* vector = bring_vectors ? vectors.data() + static_cast<int64_t>(i) * vector_dim : nullptr;
    if (valid.ok() && bring_vectors) valid = CheckStorable(vector, static_cast<int>(vector_dim), state.options.element_type);
    if (!valid.ok()) {
      LOCI_RETURN_IF_ERROR(state.Reject(passages[i], valid));
      continue;
    }
    LOCI_ASSIGN_OR_RETURN(const bool wanted, state.CheckDuplicate(passages[i]));
    if (!wanted) continue;
    ++state.result.accepted_count;
    batch.push_back(std::move(passages[i]));
    if (bring_vectors) batch_vectors.insert(batch_vectors.end(), vector, vector + vector_dim);
    if (batch.size() == kBatchPassages) LOCI_RETURN_IF_ERROR(take_batch());
  }
  return take_batch();
}

absl::StatusOr<IngestResult> Ingester::FinishReceiving() {
  State& state = *state_;
  LOCI_RETURN_IF_ERROR(state.EndDocument());
  LOCI_RETURN_IF_ERROR(state.TakeChunks());
  LOCI_RETURN_IF_ERROR(state.sink->Flush());
  state.result.reused_count = state.sink->reused_count();
  // A stream that broke off, or of which nothing could be taken, does not replace a corpus by nothing.
  if (state.line == 0 && !state.options.imported.has_value()) {
    return ErrorWithReason(absl::InvalidArgumentError("the stream had no passage; the store stays as it is"), "EMPTY_INGEST",
                           {{"field", "batch.passages"}});
  }
  if (state.options.mode == IngestMode::kUpsert) {
    state.result.generation = state.sink->generation();
    state.result.revision = state.sink->revision();
    state.result.passage_count = state.sink->written_count();
  }
  return state.result;
}

absl::StatusOr<IngestResult> Ingester::Finish() {
  State& state = *state_;
  LOCI_RETURN_IF_ERROR(FinishReceiving().status());  // A second time it finds nothing to do.
  const bool has_content = state.result.accepted_count > 0 || state.options.imported.has_value();
  if (state.options.mode == IngestMode::kUpsert || !has_content) return std::move(state.result);

  LOCI_ASSIGN_OR_RETURN(storage::Manifest manifest, state.builder->Finish(state.options.limits, state.options.progress));
  state.result.generation = manifest.generation();
  if (!state.RemembersIds()) state.result.duplicate_count = state.builder->duplicate_count();
  state.result.passage_count = manifest.passage_count();
  state.result.revision = manifest.base_revision();
  if (state.options.activate) state.Report("activating", 0, 0);  // Which may wait for another activation.
  // The builder stays until the generation is active: while there is one, retention leaves what is newer than the active one alone.
  // Whoever is gone by now did not see the build succeed; a broken stream may have held half a corpus.
  const auto give_up = [&](const absl::Status& status) {
    LOCI_RETURN_IF_ERROR(state.manager->DeleteGeneration(state.options.store, state.result.generation));
    return status;
  };
  if (absl::Status live = state.options.limits.Check(RealClock().NowMicros()); !live.ok()) return give_up(live);
  if (!state.options.activate) {
    if (!state.options.imported.has_value()) state.sink->ForgetEncoded();
    return std::move(state.result);
  }
  absl::StatusOr<ActivationResult> activated =
      state.manager->Activate(state.options.store, state.result.generation, state.options.writes_since, /*dry_run=*/false,
                              {.limits = state.options.limits});
  if (absl::IsCancelled(activated.status()) || absl::IsDeadlineExceeded(activated.status())) return give_up(activated.status());
  if (!activated.ok()) {
    // The build is whole and stays, so that the operator can activate it with another policy.
    return Annotate(activated.status(), absl::StrCat("generation ", state.result.generation, " was built but not activated"));
  }
  state.result.revision = activated->view->revision();
  if (!state.options.imported.has_value()) state.sink->ForgetEncoded();
  return std::move(state.result);
}

}  // namespace loci
