#include "clients/cli/fidelity_table.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/display.h"
#include "clients/cli/text_table.h"

namespace loci {
namespace {

bool IsOfAnotherEncoder(const v1::Store& store) { return store.int8_fidelity().encoder_fingerprint() != store.encoder_fingerprint(); }

// A fold's passages are the same ones, but nothing tells a fold's generation from an ingest's.
bool IsOfAnotherGeneration(const v1::Store& store) { return store.int8_fidelity().generation() != store.generation(); }

std::string Ratio(double tokens_per_second, double of) { return of > 0 ? absl::StrFormat("%.2fx", tokens_per_second / of) : "-"; }

}  // namespace

void PrintFidelity(CliContext& cli, const std::string& store, const v1::EncoderFidelity& fidelity) {
  std::vector<TextTable::Column> columns = {{"PRECISION"},
                                            {"COSINE MEAN", TextTable::kRight},
                                            {"COSINE MIN", TextTable::kRight},
                                            {"TOP-10 OVERLAP", TextTable::kRight},
                                            {"TOKENS/S", TextTable::kRight}};
  // Speed is told against float32, and against what serves where that is another: all but the last, int8.
  const int compared_count = std::max(fidelity.precisions_size() - 1, 0);
  for (int i = 0; i < compared_count; ++i) {
    columns.push_back({absl::StrCat("VS ", absl::AsciiStrToUpper(fidelity.precisions(i).element_type())), TextTable::kRight});
  }
  TextTable table(std::move(columns));
  for (const v1::PrecisionFidelity& precision : fidelity.precisions()) {
    std::vector<std::string> cells = {precision.element_type(), FormatFixed(precision.cosine_mean(), 5), FormatFixed(precision.cosine_min(), 5),
                                      FormatFixed(precision.top_10_overlap(), 4), FormatCount(std::llround(precision.tokens_per_second()))};
    for (int i = 0; i < compared_count; ++i) cells.push_back(Ratio(precision.tokens_per_second(), fidelity.precisions(i).tokens_per_second()));
    table.AddRow(cells);
  }
  cli.PrintTable(table);
  cli.out() << "store " << SanitizeLine(store) << ", generation " << SanitizeLine(fidelity.generation()) << ", revision " << fidelity.revision()
            << ": against float32 over " << FormatCount(fidelity.sample_count()) << " of " << FormatCountOf(fidelity.passage_count(), "passage") << ", "
            << FormatCount(fidelity.token_count()) << " tokens\n"
            << "encoder " << SanitizeLine(fidelity.encoder_fingerprint()) << ", measured " << FormatTimeUtc(fidelity.measured_unix_us())
            << " UTC; tokens/s of one thread's CPU time on " << SanitizeLine(fidelity.cpu_isa()) << '\n';
}

std::string FidelityCell(const v1::Store& store) {
  if (store.int8_fidelity().precisions().empty()) return "-";
  const v1::PrecisionFidelity& int8 = *store.int8_fidelity().precisions().rbegin();
  return absl::StrCat(FormatFixed(int8.top_10_overlap(), 4), IsOfAnotherEncoder(store) || IsOfAnotherGeneration(store) ? " old" : "");
}

void WarnOfFidelity(CliContext& cli, const v1::Store& store) {
  const std::string name = SanitizeLine(store.store());
  if (!store.has_int8_fidelity()) {
    cli.err() << "warning: nobody has measured how near int8 is to float32 over store " << name << "; " << (store.passage_count() == 0 ? "once it has passages, " : "")
              << "loci quantize " << name << " does\n";
  } else if (IsOfAnotherEncoder(store)) {
    cli.err() << "warning: how near int8 is to float32 over store " << name << " was measured with encoder "
              << SanitizeLine(store.int8_fidelity().encoder_fingerprint()) << ", and it has "
              << (store.encoder_fingerprint().empty() ? "none now" : SanitizeLine(store.encoder_fingerprint())) << "; loci quantize " << name
              << " measures again\n";
  } else if (IsOfAnotherGeneration(store)) {
    cli.err() << "warning: how near int8 is to float32 over store " << name << " was measured over generation "
              << SanitizeLine(store.int8_fidelity().generation()) << ", and " << SanitizeLine(store.generation()) << " is the active one now; loci quantize "
              << name << " measures again\n";
  }
}

}  // namespace loci
