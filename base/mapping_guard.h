// Keeps a mapped file that is cut short, or whose disk fails, from ending the process.
//
// Touching such a page raises SIGBUS. Where the mapping is guarded all of it from that page on becomes zeros instead, the reader goes on, and the
// guard knows from then on that what was read may not be what was written: a reader looks at lost() when it has read.
#ifndef LOCI_BASE_MAPPING_GUARD_H_
#define LOCI_BASE_MAPPING_GUARD_H_

#include <cstddef>

namespace loci {

// Guards [address, address + size), a mapping that begins at a page and outlives this. The first guard of the process takes the SIGBUS handler,
// and hands what is in no guarded mapping to the one that was there before. Thread-safe.
class MappingGuard {
 public:
  MappingGuard(void* address, size_t size);
  ~MappingGuard();
  MappingGuard(const MappingGuard&) = delete;
  MappingGuard& operator=(const MappingGuard&) = delete;

  bool lost() const;  // A page of it could not be read so far.

  struct Slot;  // What the handler sees.

 private:
  Slot* const slot_;
};

}  // namespace loci

#endif  // LOCI_BASE_MAPPING_GUARD_H_
