#include "index/generation_memory.h"

#include <algorithm>

#include "index/manifest.h"
#include "index/passage_file.h"

namespace loci {
namespace {

// Of a build that measured nothing.
constexpr int64_t kBlockBytes = 8 << 10;   // Of a passage file's tables, unpacked.
constexpr int64_t kIndexEntryBytes = 48;   // Of a table's own index, a block.
constexpr int64_t kFilterBytes = 3;        // A row: it has two keys, of ten bits each.
constexpr int64_t kIdBytes = 24;           // A row: an id's key and value, without what the one before it has as well.
constexpr int64_t kBlocksPerProbe = 2;
constexpr int64_t kUnpackedShare = 2;      // Of what the tables have packed.

storage::MemoryFigures Estimate(const storage::Manifest& manifest) {
  int64_t table_bytes = 0;
  storage::MemoryFigures figures;
  for (const storage::FileEntry& file : manifest.files()) {
    if (file.path() == kIndexFile) {
      figures.set_index_bytes(file.size_bytes());
    } else if (file.path() == kColumnsFile) {
      figures.set_columns_bytes(file.size_bytes() / 2);  // Bitmaps: at most two bytes for a posting of four.
    } else if (file.path() != kVectorsFile && file.path() != kCodesFile) {
      table_bytes += file.size_bytes();
    }
  }
  const int64_t rows = manifest.passage_count();
  const int64_t unpacked_bytes = kUnpackedShare * table_bytes;
  const int64_t always_bytes = kPassageFileBytes + std::min(kPassageCacheBytes, rows * kFilterBytes + unpacked_bytes / kBlockBytes * kIndexEntryBytes);
  const auto cached = [&](int64_t bytes) { return std::min(always_bytes + bytes, kPassageFileBytes + kPassageCacheBytes); };
  const int64_t probe_bytes = std::min(unpacked_bytes, manifest.probes_size() * kBlocksPerProbe * kBlockBytes);
  figures.set_passages_bytes(cached(probe_bytes));
  figures.set_passage_ids_bytes(cached(std::max(probe_bytes, rows * kIdBytes)));
  figures.set_passages_most_bytes(cached(std::max(probe_bytes, unpacked_bytes)));
  return figures;
}

}  // namespace

GenerationMemory PlannedMemory(const storage::Manifest& manifest) {
  const storage::MemoryFigures figures = manifest.has_memory() ? manifest.memory() : Estimate(manifest);
  return {.passages = figures.passages_bytes(),
          .passage_ids = figures.passage_ids_bytes(),
          .passages_most = figures.passages_most_bytes(),
          .columns = figures.columns_bytes(),
          .index = figures.index_bytes(),
          .manifest = static_cast<int64_t>(manifest.SpaceUsedLong())};
}

int64_t SizeOnDisk(const storage::Manifest& manifest) {
  return FileBytes(manifest) + static_cast<int64_t>(SerializeManifest(manifest).size());
}

}  // namespace loci
