#include "server/readers.h"

namespace loci {

std::vector<std::shared_ptr<const Reader>> MakeReaders() { return {}; }

}  // namespace loci
