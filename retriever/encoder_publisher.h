// Trained weights that come from a client, as an encoder of their own beside the one that was trained. They may be anybody's.
//
//   LOCI_ASSIGN_OR_RETURN(auto publisher, EncoderPublisher::Start(registry, fs, {.parent = encoder, .halves = EncoderHalves::kQuery, ...}));
//   LOCI_RETURN_IF_ERROR(publisher->Add(bytes));                       // piece by piece
//   LOCI_ASSIGN_OR_RETURN(ImportedEncoder published, publisher->Finish());
#ifndef LOCI_RETRIEVER_ENCODER_PUBLISHER_H_
#define LOCI_RETRIEVER_ENCODER_PUBLISHER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/checksum.h"
#include "base/disk_info.h"
#include "base/file.h"
#include "encoder/text_encoder.h"
#include "retriever/encoder_importer.h"
#include "retriever/encoder_registry.h"

namespace loci {

enum class EncoderHalves { kQuery, kPassage, kBoth };

struct EncoderPublication {
  std::shared_ptr<TextEncoder> parent;  // Of the registry.
  EncoderHalves halves = EncoderHalves::kQuery;
  std::string job;  // See EncoderOrigin.
  std::map<std::string, double> metrics;
  int64_t size_bytes = 0;  // Of the weights: 1 to EncoderImporter::kMaxWeightBytes,
  std::string sha256;      // and their sum, 64 lower-case hex digits.
};

// The weights lie in a folder of their own until all of them have come and an encoder was loaded from them, with all else its parent's; without
// Finish nothing stays. The encoder's fingerprint:
//   kQuery    query: the new weights, for vectors of the parent's passage half    passage: the parent's
//   kPassage  query: the parent's query weights, for the new passage half         passage: the new weights
//   kBoth     both: the new weights
// Where queries and passages come to the same weights it has one tower, as if it had been imported. Used by one thread at a time.
class EncoderPublisher {
 public:
  static absl::StatusOr<std::unique_ptr<EncoderPublisher>> Start(
      EncoderRegistry& registry, FileSystem& fs, EncoderPublication publication,
      std::function<int64_t(const std::string& path)> available_disk_bytes = AvailableDiskBytes);

  // INVALID_ARGUMENT, reason WEIGHTS_MISMATCH, for more than size_bytes in all; RESOURCE_EXHAUSTED as EncoderImporter::Add. After an error this can
  // only be dropped.
  absl::Status Add(std::string_view data);
  // INVALID_ARGUMENT: reason WEIGHTS_MISMATCH, for another size or sum; reason ENCODER_INVALID, field "weights", for what is no safetensors file, a
  // tensor that the encoder reads and that is missing, has another shape or type or a value that is not finite, a tensor that neither the parent's weights
  // have nor an encoder of its architecture; all name the tensor. DATA_LOSS, reason ENCODER_DAMAGED: the parent's files are not what they were.
  // RESOURCE_EXHAUSTED, reason DISK. Blocks.
  absl::StatusOr<ImportedEncoder> Finish();

  int64_t received_bytes() const { return importer_->received_bytes(); }

 private:
  EncoderPublisher(EncoderRegistry& registry, FileSystem& fs, EncoderPublication publication, std::unique_ptr<EncoderImporter> importer,
                   std::function<int64_t(const std::string& path)> available_disk_bytes);
  absl::Status CheckSum();
  absl::Status CheckTensors() const;

  EncoderRegistry& registry_;
  FileSystem& fs_;
  const EncoderPublication publication_;
  const std::unique_ptr<EncoderImporter> importer_;
  const std::function<int64_t(const std::string& path)> available_disk_bytes_;
  const std::string file_;  // That the weights become.
  Sha256 sha256_;
};

}  // namespace loci

#endif  // LOCI_RETRIEVER_ENCODER_PUBLISHER_H_
