// What a generation takes in memory while it is open, besides mapped files: known from its manifest, before it is opened.
#ifndef LOCI_INDEX_GENERATION_MEMORY_H_
#define LOCI_INDEX_GENERATION_MEMORY_H_

#include <cstdint>

#include "proto/loci/storage/storage.pb.h"

namespace loci {

// Bytes, by owner.
struct GenerationMemory {
  int64_t passages = 0;       // Once it is open.
  int64_t passage_ids = 0;    // Once every id was looked up.
  int64_t passages_most = 0;  // Once their cache has all that it has room for.
  int64_t columns = 0;
  int64_t index = 0;
  int64_t manifest = 0;

  int64_t opened_bytes() const { return passages + columns + index + manifest; }
  int64_t most_bytes() const { return passages_most + columns + index + manifest; }
};

// As the build measured it; where it did not (of an older server) as the sizes of the files let expect.
GenerationMemory PlannedMemory(const storage::Manifest& manifest);

// All files of the generation and the manifest itself.
int64_t SizeOnDisk(const storage::Manifest& manifest);

}  // namespace loci

#endif  // LOCI_INDEX_GENERATION_MEMORY_H_
