#include "server/readers.h"

#include "retriever/sentence_reader.h"

namespace loci {

std::vector<std::shared_ptr<const Reader>> MakeReaders() { return {MakeSentenceReader()}; }

}  // namespace loci
