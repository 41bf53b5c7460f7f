#include "server/readers.h"

#include "retriever/sentence_reader.h"

namespace loci {

std::vector<std::shared_ptr<const Reader>> MakeReaders(double abstain_threshold) {
  return {MakeSentenceReader({.abstain_threshold = abstain_threshold})};
}

}  // namespace loci
