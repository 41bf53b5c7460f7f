// Flags of every command that searches.
#ifndef LOCI_CLIENTS_CLI_SEARCH_FLAGS_H_
#define LOCI_CLIENTS_CLI_SEARCH_FLAGS_H_

#include <cstdint>
#include <limits>
#include <string>

#include "clients/cli/flags.h"
#include "proto/loci/v1/retrieval.pb.h"

namespace loci {

// What --help says of --filter.
inline constexpr char kFilterHelp[] =
    "A filter joins conditions on passages' metadata with and, or, not and parentheses:\n"
    "  lang = \"en\" and year >= 2020 and source in (\"a\", \"b\") and not draft\n"
    "Conditions: FIELD = != < <= > >= VALUE; FIELD [not] in (VALUE, ...); \"x\" [not] in FIELD for a list of strings; has(FIELD); FIELD alone,\n"
    "which is FIELD = true. Values: strings in \"...\" or '...', numbers, true, false. id, document_id and chunk_index are the passage's own; a key\n"
    "that is no plain name is written in backquotes: `content-type`. A condition does not hold where the field is missing or of another type.\n"
    "A filter has at most 256 KiB, 1,000 conditions and 10,000 values in lists.\n";

// Used by one thread: the command's.
class SearchFlags {
 public:
  // The set keeps pointers into this object.
  void Declare(FlagSet* flags) {
    constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
    flags->String("generation", &generation_, "NAME", "Search this generation in place of the active one.");
    flags->String("filter", &filter_, "EXPR", "Only passages whose metadata fits; see --help.");
    flags->Bool("exact", &exact_, "Score every passage.");
    flags->Int("nprobe", &nprobe_, 1, kMax, "Inverted lists to visit (IVF).");
    flags->Int("ef-search", &ef_search_, 1, kMax, "Length of the candidate list (HNSW).");
    flags->Int("rescore-factor", &rescore_factor_, 1, 1000, "Score this multiple of top-k candidates again, exactly (not for an exact index).");
    flags->Double("recall-target", &recall_target_, 1e-6, 1, "Search as widely as was measured to reach this recall, exactly where nothing did.");
  }

  const std::string& filter() const { return filter_; }

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
