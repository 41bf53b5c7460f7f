#include "retriever/archive_importer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status_macros.h"

namespace loci {

ArchiveImporter::ArchiveImporter(GenerationManager& manager, ImportOptions options) : manager_(manager), options_(std::move(options)) {}

absl::Status ArchiveImporter::Start(const storage::ArchiveHeader& header) {
  IngestOptions ingest{.store = options_.store,
                       .mode = IngestMode::kNewGeneration,
                       .index = options_.index.empty() ? header.index() : options_.index,
                       .element_type = options_.element_type.value_or(static_cast<ElementType>(header.vector_type())),
                       .activate = options_.activate,
                       .writes_since = options_.writes_since,
                       .bad_lines = LinePolicy::kFail,
                       .expected_passages = header.passage_count(),
                       .limits = options_.limits};
  ingest.imported = IngestOptions::VectorSpace{.dim = header.dim(),
                                               .query_fingerprint = header.query_fingerprint(),
                                               .passage_fingerprint = header.passage_fingerprint()};
  if (header.encoder_precisions_size() > 0) ingest.imported->precisions = PrecisionSet::Parse(header.encoder_precisions());
  const absl::StatusOr<std::shared_ptr<TextEncoder>> encoder =
      manager_.encoders().ForVectors({.query = header.query_fingerprint(), .passage = header.passage_fingerprint()});
  if (encoder.ok()) {
    if ((*encoder)->spec().dim != header.dim()) {
      return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("the archive's vectors have dimension ", header.dim(), ", those of encoder ",
                                                                        header.passage_fingerprint(), " have ", (*encoder)->spec().dim)),
                             "ENCODER_MISMATCH", {{"passage_fingerprint", header.passage_fingerprint()}});
    }
    ingest.imported->query_fingerprint = (*encoder)->spec().fingerprint.query;  // That may ask it here.
    ingest.encoder_fingerprint = (*encoder)->spec().fingerprint.ToString();
  } else if (!options_.allow_unknown_encoder) {
    return Annotate(encoder.status(), "the archive can't be imported");
  }
  ingest.progress = [this](std::string_view phase, int64_t done, int64_t total) {
    if (options_.progress) options_.progress(phase, done, phase == "receiving" ? result_.header.passage_count() : total);
  };
  result_.header = header;
  LOCI_ASSIGN_OR_RETURN(ingester_, Ingester::Start(manager_, std::move(ingest)));
  return absl::OkStatus();
}

absl::Status ArchiveImporter::Sink::TakeBlock(std::vector<loci::v1::Passage> passages, std::vector<float> vectors) {
  return importer_->ingester_->Add(std::move(passages), vectors, importer_->result_.header.dim());
}

absl::Status ArchiveImporter::Add(std::string_view bytes) { return reader_.Feed(bytes); }

absl::StatusOr<ImportResult> ArchiveImporter::FinishReceiving() {
  LOCI_RETURN_IF_ERROR(reader_.Finish());
  result_.passage_count = reader_.passage_count();
  return result_;
}

absl::StatusOr<ImportResult> ArchiveImporter::Finish() {
  LOCI_RETURN_IF_ERROR(FinishReceiving().status());
  LOCI_ASSIGN_OR_RETURN(const IngestResult ingested, ingester_->Finish());
  result_.generation = ingested.generation;
  result_.revision = ingested.revision;
  return result_;
}

}  // namespace loci
