// Flags of every command that searches.
#ifndef LOCI_CLIENTS_CLI_SEARCH_FLAGS_H_
#define LOCI_CLIENTS_CLI_SEARCH_FLAGS_H_

#include <cstdint>
#include <limits>
#include <string>

#include "clients/cli/flags.h"
#include "proto/loci/v1/retrieval.pb.h"

namespace loci {

// Used by one thread: the command's.
class SearchFlags {
 public:
  // The set keeps pointers into this object.
  void Declare(FlagSet* flags) {
    constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
    flags->String("generation", &generation_, "NAME", "Search this generation in place of the active one.");
    flags->String("filter", &filter_, "EXPR", "Only passages whose metadata fits (not available yet).");
    flags->Bool("exact", &exact_, "Score every passage.");
    flags->Int("nprobe", &nprobe_, 1, kMax, "Inverted lists to visit (IVF).");
    flags->Int("ef-search", &ef_search_, 1, kMax, "Length of the candidate list (HNSW).");
    flags->Int("rescore-factor", &rescore_factor_, 1, kMax, "Rescore this multiple of top-k exactly (not available yet).");
    flags->Double("recall-target", &recall_target_, 0, 1, "Search as widely as this recall needs (not available yet).");
  }

  // Sets generation, filter and options.
  void Fill(v1::SearchRequest* request) const {
    request->set_generation(generation_);
    request->set_filter(filter_);
    if (!exact_ && nprobe_ == 0 && ef_search_ == 0 && rescore_factor_ == 0 && recall_target_ == 0) return;
    v1::SearchOptions* const options = request->mutable_options();
    options->set_exact(exact_);
    options->set_nprobe(static_cast<int32_t>(nprobe_));
    options->set_ef_search(static_cast<int32_t>(ef_search_));
    options->set_rescore_factor(static_cast<int32_t>(rescore_factor_));
    options->set_recall_target(recall_target_);
  }

 private:
  std::string generation_, filter_;
  bool exact_ = false;
  int64_t nprobe_ = 0, ef_search_ = 0, rescore_factor_ = 0;
  double recall_target_ = 0;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_SEARCH_FLAGS_H_
