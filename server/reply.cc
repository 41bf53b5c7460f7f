#include "server/reply.h"

#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/strings.h"
#include "encoder/fingerprint.h"
#include "index/manifest.h"
#include "server/matrix_codec.h"
#include "server/validation.h"

namespace loci {
namespace {

loci::v1::JobState StateOf(storage::JobRecord::State state) {
  switch (state) {
    case storage::JobRecord::STATE_RUNNING:
      return loci::v1::JOB_STATE_RUNNING;
    case storage::JobRecord::STATE_SUCCEEDED:
      return loci::v1::JOB_STATE_SUCCEEDED;
    case storage::JobRecord::STATE_FAILED:
      return loci::v1::JOB_STATE_FAILED;
    case storage::JobRecord::STATE_CANCELLED:
      return loci::v1::JOB_STATE_CANCELLED;
    case storage::JobRecord::STATE_INTERRUPTED:
      return loci::v1::JOB_STATE_INTERRUPTED;
    default:
      return loci::v1::JOB_STATE_UNSPECIFIED;
  }
}

loci::v1::GenerationState StateOf(GenerationState state) {
  switch (state) {
    case GenerationState::kLoading:
      return loci::v1::GENERATION_STATE_LOADING;
    case GenerationState::kVerifying:
      return loci::v1::GENERATION_STATE_VERIFYING;
    case GenerationState::kWarming:
      return loci::v1::GENERATION_STATE_WARMING;
    case GenerationState::kReady:
      return loci::v1::GENERATION_STATE_READY;
    case GenerationState::kServing:
      return loci::v1::GENERATION_STATE_SERVING;
    case GenerationState::kDraining:
      return loci::v1::GENERATION_STATE_DRAINING;
    case GenerationState::kRetired:
      return loci::v1::GENERATION_STATE_RETIRED;
    case GenerationState::kFailed:
      return loci::v1::GENERATION_STATE_FAILED;
  }
  return loci::v1::GENERATION_STATE_UNSPECIFIED;
}

}  // namespace

void FillUsage(const TokenUsage& usage, loci::v1::TokenUsage* out) {
  out->set_input_tokens(usage.input_tokens);
  out->set_used_tokens(usage.used_tokens);
  out->set_truncated(usage.truncated);
}

void FillTimings(const PhaseTimes& times, loci::v1::Timings* out) {
  out->set_queue_us(times.queue_us);
  out->set_tokenize_us(times.tokenize_us);
  out->set_encode_us(times.encode_us);
  out->set_search_us(times.search_us);
  out->set_fetch_us(times.fetch_us);
  out->set_read_us(times.read_us);
  out->set_total_us(times.total_us);
  out->set_filter_us(times.filter_us);
}

void FillHit(SearchHit&& hit, bool include_text, bool include_vectors, loci::v1::Hit* out) {
  out->set_id(std::move(hit.id));
  out->set_score(hit.score);
  if (include_text) *out->mutable_passage() = std::move(hit.passage);
  if (include_vectors) EncodeMatrix(hit.vector.data(), 1, static_cast<int64_t>(hit.vector.size()), ElementType::kFloat32, out->mutable_vector());
}

void FillEncodeResponse(const EncodeReply& reply, ElementType vector_type, loci::v1::EncodeResponse* out) {
  EncodeMatrix(reply.vectors.data(), static_cast<int64_t>(reply.usage.size()), reply.dim, vector_type, out->mutable_vectors());
  for (const TokenUsage& usage : reply.usage) FillUsage(usage, out->add_usage());
  out->set_encoder_fingerprint(reply.encoder_fingerprint);
  FillTimings(reply.times, out->mutable_timings());
}

void FillSearchResponse(SearchReply&& reply, bool include_text, bool include_vectors, loci::v1::SearchResponse* out) {
  for (size_t i = 0; i < reply.results.size(); ++i) {
    loci::v1::QueryResult& result = *out->add_results();
    result.mutable_hits()->Reserve(static_cast<int>(reply.results[i].size()));
    for (SearchHit& hit : reply.results[i]) FillHit(std::move(hit), include_text, include_vectors, result.add_hits());
    if (i < reply.usage.size() && reply.usage[i].has_value()) FillUsage(*reply.usage[i], result.mutable_usage());
  }
  out->set_store(reply.serving_set->store);
  out->set_generation(reply.serving_set->view->generation().id());
  out->set_revision(reply.serving_set->view->revision());
  if (reply.serving_set->encoder != nullptr) out->set_encoder_fingerprint(reply.serving_set->encoder->spec().fingerprint.ToString());
  out->set_exact(reply.exact);
  out->set_match_count(reply.match_count);
  FillTimings(reply.times, out->mutable_timings());
}

void FillAnswerResponse(AnswerReply&& reply, const std::string& reader, loci::v1::AnswerResponse* out) {
  for (const ReadAnswer& read : reply.read.answers) {
    loci::v1::Answer& answer = *out->add_answers();
    answer.set_text(read.text);
    answer.set_score(read.score);
    loci::v1::Evidence& evidence = *answer.add_evidence();
    evidence.set_passage_id(reply.passages[read.passage].id);
    evidence.set_start_byte(read.start_byte);
    evidence.set_end_byte(read.end_byte);
  }
  out->set_abstained(reply.read.abstained);
  for (SearchHit& hit : reply.passages) FillHit(std::move(hit), true, false, out->add_passages());
  out->set_generation(reply.serving_set->view->generation().id());
  out->set_revision(reply.serving_set->view->revision());
  out->set_reader(reader);
  FillTimings(reply.times, out->mutable_timings());
}

void FillIngestResponse(const IngestResult& result, loci::v1::IngestResponse* out) {
  out->set_generation(result.generation);
  out->set_done(!result.generation.empty());
  out->set_accepted_count(result.accepted_count);
  out->set_rejected_count(result.rejected_count);
  out->set_duplicate_count(result.duplicate_count);
  out->set_reused_count(result.reused_count);
  out->set_passage_count(result.passage_count);
  out->set_revision(result.revision);
  for (const IngestLineError& error : result.errors) {
    loci::v1::LineError& line = *out->add_errors();
    line.set_line(error.line);
    line.set_id(error.id);
    line.set_message(error.message);
  }
}

void FillImportResponse(const ImportResult& result, loci::v1::ImportResponse* out) {
  out->set_generation(result.generation);
  out->set_passage_count(result.passage_count);
  out->set_revision(result.revision);
  out->set_encoder_fingerprint(absl::StrCat(result.header.query_fingerprint(), ":", result.header.passage_fingerprint()));
  out->set_source_store(result.header.store());
  out->set_source_generation(result.header.generation());
  out->set_source_revision(result.header.revision());
  out->set_exported_unix_us(result.header.exported_unix_us());
}

void FillReembed(const ReembedResult& result, loci::v1::ReembedStoreResponse* out) {
  out->set_generation(result.generation);
  out->set_revision(result.revision);
  out->set_previous_generation(result.previous_generation);
  out->set_encoder_fingerprint(result.encoder_fingerprint);
  out->set_previous_encoder_fingerprint(result.previous_encoder_fingerprint);
  out->set_base_revision(result.base_revision);
  out->set_passage_count(result.passage_count);
  out->set_encoded_count(result.encoded_count);
  out->set_reused_count(result.reused_count);
  out->set_written_count(result.written_count);
  out->set_size_bytes(result.size_bytes);
  out->set_done(true);
}

void FillReembedEstimate(const ReembedEstimate& estimate, loci::v1::ReembedStoreResponse* out) {
  out->set_generation(estimate.generation);
  out->set_revision(estimate.revision);
  out->set_encoder_fingerprint(estimate.encoder_fingerprint);
  out->set_previous_encoder_fingerprint(estimate.previous_encoder_fingerprint);
  loci::v1::ReembedEstimate* const filled = out->mutable_estimate();
  filled->set_passage_count(estimate.passage_count);
  filled->set_token_count(estimate.token_count);
  filled->set_tokens_per_second(estimate.tokens_per_second);
  filled->set_duration_ms(estimate.duration_ms);
  filled->set_size_bytes(estimate.size_bytes);
  filled->set_peak_disk_bytes(estimate.peak_disk_bytes);
  filled->set_memory_bytes(estimate.memory_bytes);
}

void FillFold(const FoldResult& result, loci::v1::FoldStoreResponse* out) {
  out->set_generation(result.generation);
  out->set_revision(result.revision);
  out->set_previous_generation(result.previous_generation);
  out->set_base_revision(result.base_revision);
  out->set_passage_count(result.passage_count);
  out->set_folded_count(result.folded_count);
  out->set_dropped_count(result.dropped_count);
  out->set_done(true);
}

void FillStore(const StoreInfo& info, loci::v1::Store* out) {
  out->set_store(info.name);
  out->set_generation(info.generation);
  out->set_revision(info.revision);
  out->set_passage_count(info.passage_count);
  out->set_overlay_count(info.overlay_count);
  out->set_generation_count(info.generation_count);
  out->set_encoder_fingerprint(info.encoder_fingerprint);
  out->set_size_bytes(info.size_bytes);
  out->set_keep_generations(info.keep_generations);
  out->set_error(info.error);
  out->set_encoder_precision(info.int8 ? "int8" : "auto");
  if (info.int8_fidelity.has_value()) FillFidelity(*info.int8_fidelity, out->mutable_int8_fidelity());
}

void FillFidelity(const storage::EncoderFidelity& fidelity, loci::v1::EncoderFidelity* out) {
  out->set_encoder_fingerprint(fidelity.encoder_fingerprint());
  out->set_measured_unix_us(fidelity.measured_unix_us());
  out->set_generation(fidelity.generation());
  out->set_revision(fidelity.revision());
  out->set_passage_count(fidelity.passage_count());
  out->set_sample_count(fidelity.sample_count());
  out->set_token_count(fidelity.token_count());
  for (const storage::EncoderFidelity::Precision& precision : fidelity.precisions()) {
    loci::v1::PrecisionFidelity& filled = *out->add_precisions();
    filled.set_element_type(precision.element_type());
    filled.set_cosine_mean(precision.cosine_mean());
    filled.set_cosine_min(precision.cosine_min());
    filled.set_top_10_overlap(precision.top_10_overlap());
    filled.set_tokens_per_second(precision.tokens_per_second());
  }
  out->set_cpu_isa(fidelity.cpu_isa());
}

void FillComparison(GenerationComparison&& comparison, loci::v1::CompareGenerationsResponse* out) {
  out->set_generation_a(comparison.generation_a);
  out->set_generation_b(comparison.generation_b);
  out->set_revision(comparison.revision);
  out->set_mean_overlap(comparison.mean_overlap);
  out->set_changed_count(comparison.changed_count);
  out->set_changed_first_count(comparison.changed_first_count);
  for (QueryDifference& difference : comparison.queries) {
    loci::v1::QueryComparison& query = *out->add_queries();
    query.set_overlap(difference.overlap);
    query.set_same_order(difference.same_order);
    for (std::string& id : difference.ids_a) query.add_ids_a(std::move(id));
    for (std::string& id : difference.ids_b) query.add_ids_b(std::move(id));
    for (HitChange& change : difference.changes) {
      loci::v1::HitChange& filled = *query.add_changes();
      filled.set_id(std::move(change.id));
      filled.set_reason(static_cast<loci::v1::ChangeReason>(change.reason));
      filled.set_rank_a(change.rank_a);
      filled.set_rank_b(change.rank_b);
    }
  }
  constexpr std::string_view kPrefix = "CHANGE_REASON_";
  for (int reason = 1; reason < kChangeReasonCount; ++reason) {
    const std::string name = loci::v1::ChangeReason_Name(static_cast<loci::v1::ChangeReason>(reason)).substr(kPrefix.size());
    (*out->mutable_change_counts())[name] = comparison.change_counts[static_cast<size_t>(reason)];
  }
}

void FillGateFigures(const std::vector<GateFigure>& figures, google::protobuf::RepeatedPtrField<loci::v1::GateFigure>* out) {
  for (const GateFigure& figure : figures) {
    loci::v1::GateFigure& filled = *out->Add();
    filled.set_condition(figure.condition);
    filled.set_value(figure.value);
    filled.set_limit(figure.limit.value_or(std::numeric_limits<double>::quiet_NaN()));
    filled.set_met(figure.met);
    filled.set_query_count(figure.query_count);
  }
}

void FillPlan(const ActivationPlan& plan, loci::v1::PlanActivationResponse* out) {
  out->set_generation(plan.generation);
  out->set_revision(plan.revision);
  out->set_can_activate(plan.blockers.empty());
  for (const std::string& blocker : plan.blockers) out->add_blockers(blocker);
  out->set_mapped_bytes(plan.mapped_bytes);
  out->set_resident_bytes(plan.need.resident_bytes());
  out->set_resident_most_bytes(plan.need.most_bytes());
  for (const MemoryFigure& figure : plan.memory) {
    loci::v1::MemoryFigure& filled = *out->add_memory();
    filled.set_owner(figure.owner);
    filled.set_mapped(figure.mapped);
    filled.set_bytes(figure.bytes);
    filled.set_most_bytes(figure.most_bytes);
  }
  out->set_disk_bytes(plan.disk_bytes);
  out->set_available_disk_bytes(plan.available_disk_bytes);
  out->set_available_bytes(plan.available_bytes);
  out->set_released_bytes(plan.released_bytes);
  out->set_estimated_load_ms(plan.estimated_load_ms);
  out->set_writes_since_count(plan.writes_since_count);
  out->set_previous_generation(plan.previous_generation);
}

void FillGeneration(const GenerationInfo& info, loci::v1::Generation* out) {
  const storage::Manifest& manifest = info.manifest;
  out->set_generation(manifest.generation());
  out->set_state(StateOf(info.state));
  out->set_state_detail(info.detail);
  out->set_passage_count(manifest.passage_count());
  out->set_vector_count(manifest.vector_count());
  out->set_dim(manifest.dim());
  out->set_vector_type(manifest.vector_type());
  out->set_index(HasCodes(manifest) && manifest.index() == "exact" ? "exact:int8" : manifest.index());
  out->set_encoder_fingerprint(absl::StrCat(manifest.query_fingerprint(), ":", manifest.passage_fingerprint()));
  out->set_base_revision(manifest.base_revision());
  out->set_created_unix_us(manifest.created_unix_us());
  out->set_size_bytes(info.size_bytes);
  out->set_recall_at_10(manifest.recall_at_10());
  out->set_recall_query_count(manifest.recall_query_count());
  out->set_recall_query_source(manifest.recall_query_source());
  out->set_pinned(info.pinned);
  if (manifest.has_tuning()) *out->mutable_tuning() = manifest.tuning();
  *out->mutable_ladder() = manifest.ladder();
  for (std::string& name : PrecisionsOf(manifest).Names()) out->add_encoder_precisions(std::move(name));
}

void FillJob(const JobInfo& info, loci::v1::Job* out) {
  const storage::JobRecord& record = info.record;
  out->set_job(record.job());
  out->set_phase(record.phase());
  out->set_done(record.done());
  out->set_total(record.total());
  out->set_eta_ms(info.eta_ms);
  out->set_kind(record.kind());
  out->set_store(record.store());
  out->set_generation(record.generation());
  out->set_state(StateOf(record.state()));
  out->set_unit(record.unit());
  out->set_rate(info.rate);
  out->set_started_unix_us(record.started_unix_us());
  out->set_finished_unix_us(record.finished_unix_us());
  out->set_error_code(record.error_code());
  out->set_error_message(record.error_message());
  out->set_request_id(record.request_id());
  if (record.result().empty()) return;
  if (record.kind() == JobKindName(JobKind::kIngest)) (void)out->mutable_ingest()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kActivate)) (void)out->mutable_activate()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kFold)) (void)out->mutable_fold()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kReembed)) (void)out->mutable_reembed()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kImportEncoder)) (void)out->mutable_import_encoder()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kRollback)) (void)out->mutable_rollback()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kImport)) (void)out->mutable_import_result()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kTune)) (void)out->mutable_tune()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kQuantize)) (void)out->mutable_quantize()->ParseFromString(record.result());
  if (record.kind() == JobKindName(JobKind::kVerify)) (void)out->mutable_verify()->ParseFromString(record.result());
}

void FillEncoderInfo(const EncoderSpec& spec, loci::v1::EncoderInfo* out) {
  out->set_fingerprint(spec.fingerprint.ToString());
  out->set_model(spec.model_name);
  out->set_dim(spec.dim);
  out->set_max_tokens(spec.max_length);
  out->set_pooling(std::string(PoolingName(spec.pooling)));
  out->set_normalize(spec.normalize);
  out->set_query_prefix(spec.query_prefix);
  out->set_passage_prefix(spec.passage_prefix);
  out->set_element_type(spec.element_type);
  out->set_element_type_reason(spec.element_type_reason);
  out->set_device(spec.device);
  out->set_memory_bytes(spec.memory_bytes);
}

absl::Status CheckReplySize(const google::protobuf::MessageLite& reply) {
  const int64_t size_bytes = static_cast<int64_t>(reply.ByteSizeLong());
  if (size_bytes <= kMaxMessageBytes) return absl::OkStatus();
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("the reply would have ", size_bytes, " bytes, the limit is ", kMaxMessageBytes,
                                                                 "; ask for less at once")),
                         "REPLY_TOO_LARGE", {{"limit_bytes", absl::StrCat(kMaxMessageBytes)}});
}

}  // namespace loci
