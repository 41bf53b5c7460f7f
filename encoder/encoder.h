// A transformer encoder: packed token ids in, vectors out.
//
//   LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Encoder> encoder, LoadEncoder(fs, "models/all-MiniLM-L6-v2", {}));
//   PackedBatch batch = ...;
//   std::vector<float> vectors(batch.sequence_count() * encoder->spec().dim);
//   LOCI_RETURN_IF_ERROR(encoder->Encode(batch, vectors.data()));
#ifndef LOCI_ENCODER_ENCODER_H_
#define LOCI_ENCODER_ENCODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/device.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "encoder/kernels/op_types.h"
#include "encoder/precision.h"
#include "encoder/tokenizer.h"
#include "encoder/types.h"

namespace loci {

// What a checkpoint says of itself. Lengths count special tokens.
struct EncoderSpec {
  std::string model_name;  // The folder's name, e.g. "all-MiniLM-L6-v2".
  int dim = 0;
  int layer_count = 0;
  int head_count = 0;
  int intermediate_size = 0;
  int max_length = 0;  // Tokens of one sequence: the least of sentence_bert_config.json's and the position table's.
  Pooling pooling = Pooling::kMean;
  bool normalize = true;
  std::string query_prefix;
  std::string passage_prefix;
  std::string element_type = "float32";  // What the weights are computed in: a Precision's name. Recorded, not hashed.
  std::string element_type_reason;       // For people: "auto takes float16: the CPU has AVX-512 fp16".
  std::string device = "cpu";
  int64_t memory_bytes = 0;  // Weights as held, packed copies included; the mapped file not.
  Fingerprint fingerprint;
};

// Thread-safe.
class Encoder {
 public:
  virtual ~Encoder() = default;

  virtual const EncoderSpec& spec() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;

  // Fills `vectors` [batch.sequence_count(), dim], row-major, unit length where spec().normalize. The vector of a sequence is the
  // same, bit for bit, whatever else is in the batch, on whatever number of threads.
  // INVALID_ARGUMENT for a sequence that is empty or longer than max_length, or an id outside the vocabulary. Blocks.
  virtual absl::Status Encode(const PackedBatch& batch, float* vectors) const = 0;
};

class CudaBackend;

struct EncoderOptions {
  // Borrowed; must outlive the encoder. Blocks of whole sequences run on it beside the calling thread; null: calling thread only.
  ThreadPool* pool = nullptr;
  CpuIsa isa = DetectCpuIsa();
  Precision precision = Precision::kAuto;
  // Where not null, the encoder runs on this device (encoder/cuda/backend.h): in `precision`, which may not be kInt8; kAuto is bfloat16.
  std::shared_ptr<CudaBackend> cuda;
  // Stands for the folder's name in EncoderSpec::model_name where not empty.
  std::string model_name;
};

// Loads a Hugging Face BERT-family checkpoint as it is: config.json, model.safetensors, tokenizer.json or vocab.txt, and
// sentence-transformers' modules.json, pooling configuration, sentence_bert_config.json and
// config_sentence_transformers.json (prompts) where present. Reads nothing outside the folder.
// NOT_FOUND for a missing file; INVALID_ARGUMENT for a file that is malformed, a tensor that is missing or has another shape or
// type, a vocabulary that does not fit the weights, an architecture that is not BERT's, or weights that give a text a vector that is not
// finite: the message names file and tensor. FAILED_PRECONDITION for a precision that the CPU or the device does not have, or where the device
// can't hold or run it, or gives other vectors than the CPU; UNAVAILABLE where the device failed.
absl::StatusOr<std::shared_ptr<const Encoder>> LoadEncoder(FileSystem& fs, const std::string& model_directory,
                                                           const EncoderOptions& options);

// The text that stands for a passage: `title + " " + text`, or `text` alone where the title is empty.
std::string PassageText(std::string_view title, std::string_view text);

}  // namespace loci

#endif  // LOCI_ENCODER_ENCODER_H_
