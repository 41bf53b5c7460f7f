// The end of RocksDB's MANIFEST that a power cut tore.
//
// RocksDB appends a record to its MANIFEST for each flush and compaction, syncs it, and only then deletes what the record replaces: the
// log or the tables that hold the same data. So a record whose sync did not come to its end is needed for nothing. RocksDB passes over one
// that is cut short, but takes one whose bytes are zeros from somewhere on, as a journalling file system leaves it, for damage, and does
// not open.
#ifndef LOCI_INDEX_TORN_MANIFEST_H_
#define LOCI_INDEX_TORN_MANIFEST_H_

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "rocksdb/file_system.h"

namespace loci {

// How many bytes of a MANIFEST's `content` are whole records: all but a torn record at its end. Torn is what ends before its length, or is
// zeros from somewhere in it to the end of the file. DATA_LOSS for any other damage: with a whole record behind it, with other bytes than
// zeros at the end, or of a length that its checksum shows to be wrong. (RocksDB drops without a word what follows on a length that was
// made too large, or on zeros.)
absl::StatusOr<size_t> WholeManifestBytes(std::string_view content);

// `files`, where what is read of a file MANIFEST-<number> is its whole records only, and other damage an error; the file stays as it is. A
// record that was synced is torn by damage only: who opens a database over this must notice that what it named is missing. Thread-safe, as
// `files`.
std::shared_ptr<rocksdb::FileSystem> NewTornManifestFileSystem(std::shared_ptr<rocksdb::FileSystem> files);

}  // namespace loci

#endif  // LOCI_INDEX_TORN_MANIFEST_H_
