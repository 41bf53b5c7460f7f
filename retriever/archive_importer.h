// An archive into a store, as a new generation.
//
//   ArchiveImporter importer(manager, options);
//   while (...) LOCI_RETURN_IF_ERROR(importer.Add(bytes));
//   LOCI_ASSIGN_OR_RETURN(ImportResult result, importer.Finish());
#ifndef LOCI_RETRIEVER_ARCHIVE_IMPORTER_H_
#define LOCI_RETRIEVER_ARCHIVE_IMPORTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancellation.h"
#include "base/vector_type.h"
#include "index/archive.h"
#include "retriever/generation_manager.h"
#include "retriever/ingester.h"

namespace loci {

struct ImportOptions {
  std::string store;  // Created if absent, once the archive's header was taken.
  bool activate = true;
  WritesPolicy writes_since = WritesPolicy::kRefuse;
  std::string index;                        // Empty: as the archive says.
  std::optional<ElementType> element_type;  // Not set: as the archive says.
  // Take vectors that no encoder here serves; not with `activate`.
  bool allow_unknown_encoder = false;
  RequestLimits limits;
  // As IngestOptions.
  std::function<void(std::string_view phase, int64_t done, int64_t total)> progress;
};

struct ImportResult {
  std::string generation;  // Empty before Finish.
  int64_t revision = 0;
  int64_t passage_count = 0;
  storage::ArchiveHeader header;  // What the archive says of itself.
};

// Believes nothing that the archive says: see ArchiveReader for what is refused; a passage that an ingest would not take ends the import.
// What an ingest does with passages and vectors is done with these: the same builder writes them, builds the index and measures it.
// Without Finish, or where it fails before the generation is whole, nothing stays but the store, empty, where it was
// created for it: others may use it already. Used by one thread at a time.
class ArchiveImporter {
 public:
  ArchiveImporter(GenerationManager& manager, ImportOptions options);

  // The next bytes. Blocks while they are written. Besides ArchiveReader's errors: FAILED_PRECONDITION, reason ENCODER_MISMATCH, where no
  // encoder serves the vectors, or has another dimension; INVALID_ARGUMENT, reason BAD_LINE, for a passage that an ingest would not take, and as from
  // Ingester::Start. After an error the import can only be dropped.
  absl::Status Add(std::string_view bytes);

  // The bytes have ended: the archive was whole, or DATA_LOSS. Called by Finish, if not before.
  absl::StatusOr<ImportResult> FinishReceiving();

  // Builds and activates. Errors as Ingester::Finish.
  absl::StatusOr<ImportResult> Finish();

 private:
  // Hands what is read to the ingester.
  class Sink final : public ArchiveSink {
   public:
    explicit Sink(ArchiveImporter* importer) : importer_(importer) {}
    absl::Status TakeHeader(const storage::ArchiveHeader& header) override { return importer_->Start(header); }
    absl::Status TakeBlock(std::vector<loci::v1::Passage> passages, std::vector<float> vectors) override;

   private:
    ArchiveImporter* const importer_;
  };

  absl::Status Start(const storage::ArchiveHeader& header);

  GenerationManager& manager_;
  const ImportOptions options_;
  Sink sink_{this};
  ArchiveReader reader_{&sink_};
  std::unique_ptr<Ingester> ingester_;  // Null before the header.
  ImportResult result_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ARCHIVE_IMPORTER_H_
