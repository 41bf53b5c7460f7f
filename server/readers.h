// The readers that this server offers.
#ifndef LOCI_SERVER_READERS_H_
#define LOCI_SERVER_READERS_H_

#include <memory>
#include <vector>

#include "retriever/reader.h"

namespace loci {

std::vector<std::shared_ptr<const Reader>> MakeReaders();

}  // namespace loci

#endif  // LOCI_SERVER_READERS_H_
