// Flags of an activation's gates, for the commands that have them.
#ifndef LOCI_CLIENTS_CLI_GATE_FLAGS_H_
#define LOCI_CLIENTS_CLI_GATE_FLAGS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "clients/cli/cli_context.h"
#include "clients/cli/flags.h"
#include "google/protobuf/repeated_field.h"
#include "proto/loci/v1/admin.pb.h"

namespace loci {

// Used by one thread: the command's.
class GateFlags {
 public:
  void Declare(FlagSet* flags);
  // INVALID_ARGUMENT for flags that do not go together. `flags` were parsed.
  absl::Status Check(const FlagSet& flags) const;
  // Reads the files. Errors as ReadQueries and ReadJudgements. Checked before.
  absl::Status Fill(const FlagSet& flags, v1::ActivationGates* gates) const;

 private:
  std::string queries_path_, qrels_path_;
  double min_ndcg_ = 0, min_recall_ = 0, min_overlap_ = 0;
  std::string max_p99_;
};

// Microseconds of "500us", or as ParseDurationMs.
absl::Status ParseDurationUs(std::string_view text, int64_t* duration_us);

// A table of the figures; nothing where there are none.
void PrintGateFigures(CliContext& cli, const google::protobuf::RepeatedPtrField<v1::GateFigure>& figures);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_GATE_FLAGS_H_
