#include "encoder/towers.h"

namespace loci {

EncoderSpec EncoderTowers::spec() const {
  EncoderSpec spec = passage->spec();
  if (!model_name.empty()) spec.model_name = model_name;
  if (!element_type_reason.empty()) spec.element_type_reason = element_type_reason;
  if (query == nullptr) return spec;
  spec.fingerprint.query = query->spec().fingerprint.query;
  spec.memory_bytes += query->spec().memory_bytes;
  return spec;
}

}  // namespace loci
