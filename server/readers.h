// The readers that this server offers.
#ifndef LOCI_SERVER_READERS_H_
#define LOCI_SERVER_READERS_H_

#include <memory>
#include <vector>

#include "retriever/reader.h"

namespace loci {

// Below a confidence of `abstain_threshold`, 0 to 1, a reader gives no answer.
std::vector<std::shared_ptr<const Reader>> MakeReaders(double abstain_threshold);

}  // namespace loci

#endif  // LOCI_SERVER_READERS_H_
