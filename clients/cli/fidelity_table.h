// How near int8 is to float32 over a store, told to people.
#ifndef LOCI_CLIENTS_CLI_FIDELITY_TABLE_H_
#define LOCI_CLIENTS_CLI_FIDELITY_TABLE_H_

#include <string>

#include "clients/cli/cli_context.h"
#include "proto/loci/v1/admin.pb.h"

namespace loci {

// A row a precision, with its speed against float32 and against what serves, and a line of what was measured when.
void PrintFidelity(CliContext& cli, const std::string& store, const v1::EncoderFidelity& fidelity);

// For a table of stores: int8's top-10 overlap, "-" where nothing was measured, and "old" behind it where that was another encoder's or
// over another generation than the active one.
std::string FidelityCell(const v1::Store& store);

// Warns on standard error where a store that is set to int8 has not been measured, or with another encoder or over another generation.
void WarnOfFidelity(CliContext& cli, const v1::Store& store);

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_FIDELITY_TABLE_H_
