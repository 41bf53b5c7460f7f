// `loci_server quantize`: how near int8 is to float32 with one checkpoint on this machine, and how much faster. It runs, prints and ends,
// without a server: what it needs is the checkpoint, this CPU and some of the operator's texts.
//
//   loci_server quantize --model models/all-MiniLM-L6-v2 --texts passages.jsonl
//   gzip -dc passages.jsonl.gz | loci_server quantize --model models/all-MiniLM-L6-v2 --texts - --sample 2000
#ifndef LOCI_SERVER_QUANTIZE_COMMAND_H_
#define LOCI_SERVER_QUANTIZE_COMMAND_H_

#include <istream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace loci {

inline constexpr char kInt8FidelityFile[] = "int8_fidelity.json";

struct QuantizeResult {
  // To print: cosine, top-10 overlap and tokens per second of float32, of the fastest precision that interchanges with it, and of int8
  // (FidelityTable), and where that is recorded, or why not.
  std::string report;
  // FileSystem's error where the file that --record names could not be written; OK where that was the default one's.
  absl::Status recorded;
};

// `arguments` behind "quantize":
//   --model DIR    a checkpoint
//   --texts FILE   a text a line, or a JSON object with `text` and perhaps `title`; "-" is `input`. Not gzipped. Empty lines are skipped.
//   --sample N     so many of the texts, drawn at random, the same ones of the same texts: 20 to 10,000, default 1,000. Others are not held.
//   --record FILE  where the figures are kept as JSON; default int8_fidelity.json in the checkpoint's folder. "" keeps none
// INVALID_ARGUMENT names flag or line; DATA_LOSS the line from which on the texts can't be read; other errors as LoadEncoder and FileSystem. Blocks, for some seconds per 1,000 texts.
absl::StatusOr<QuantizeResult> RunQuantizeCommand(const std::vector<std::string>& arguments, std::istream& input);

std::string QuantizeHelp();

}  // namespace loci

#endif  // LOCI_SERVER_QUANTIZE_COMMAND_H_
