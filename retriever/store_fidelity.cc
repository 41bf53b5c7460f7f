#include "retriever/store_fidelity.h"

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/device.h"
#include "base/error.h"
#include "base/file.h"
#include "base/logging.h"
#include "base/memory_info.h"
#include "base/split_mix.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "encoder/encoder.h"
#include "encoder/fidelity.h"
#include "encoder/text_encoder.h"
#include "encoder/towers.h"
#include "index/build_forecast.h"
#include "proto/loci/storage/storage.pb.h"
#include "proto/loci/v1/common.pb.h"
#include "retriever/encoder_pace.h"
#include "retriever/encoder_registry.h"

namespace loci {
namespace {

constexpr size_t kReadPassages = 64;
constexpr int kTowers = 3;  // That are held at once: float32's, int8's and what the registry's encoders compute in.

absl::Status CheckEnough(std::string_view store, const View& view) {
  if (view.passage_count() >= kMinFidelityTexts) return absl::OkStatus();
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat("store \"", AbslView(store), "\" serves ", view.passage_count(), " passages; to measure with, there must be ",
                                                 kMinFidelityTexts, " at least")),
      "TOO_FEW_PASSAGES",
      {{"store", std::string(store)}, {"passage_count", absl::StrCat(view.passage_count())}, {"limit", absl::StrCat(kMinFidelityTexts)}});
}

// Room for so many towers, one after the other, each held beside those before it: packed, of an encoder in float32, they are no larger than its
// file, and that is mapped while one is read.
absl::Status CheckRoom(GenerationManager& manager, const Fingerprint& encoder, int tower_count) {
  const absl::StatusOr<int64_t> weights_bytes = manager.fs().FileSize(JoinPath(manager.encoders().Directory(encoder), kWeightsFile));
  if (!weights_bytes.ok()) return absl::OkStatus();  // Who loads it says why.
  return CheckMemory("a measurement of int8 vectors", (tower_count + 1) * *weights_bytes, AvailableMemoryBytes(manager.fs()));
}

// `count` of the view's passages, or all, each set of so many as likely as any other, in order. (Knuth, The Art of Computer Programming, 3.4.2,
// algorithm S.)
std::vector<ViewRow> DrawRows(const View& view, int64_t count) {
  SplitMix64 random(kFidelitySampleSeed);
  std::vector<ViewRow> drawn;
  int64_t alive = view.passage_count();
  count = std::min(count, alive);
  for (const bool in_overlay : {false, true}) {
    const int64_t rows = in_overlay ? view.overlay_row_count() : view.generation().row_count();
    for (int64_t row = 0; row < rows && static_cast<int64_t>(drawn.size()) < count; ++row) {
      if (!view.IsAlive({in_overlay, row})) continue;
      if (random.Below(alive--) < count - static_cast<int64_t>(drawn.size())) drawn.push_back({in_overlay, row});
    }
  }
  return drawn;
}

void AddPrecision(const std::string& element_type, double cosine_mean, double cosine_min, double top_10_overlap, double tokens_per_second,
                  storage::EncoderFidelity* record) {
  storage::EncoderFidelity::Precision& precision = *record->add_precisions();
  precision.set_element_type(element_type);
  precision.set_cosine_mean(cosine_mean);
  precision.set_cosine_min(cosine_min);
  precision.set_top_10_overlap(top_10_overlap);
  precision.set_tokens_per_second(tokens_per_second);
}

}  // namespace

absl::Status CheckStoreFidelity(GenerationManager& manager, std::string_view store) {
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const ServingSet> set, manager.TryCapture(store, ""));
  LOCI_RETURN_IF_ERROR(manager.encoders().CheckInt8());
  LOCI_RETURN_IF_ERROR(CheckEnough(store, *set->view));
  const storage::Manifest& manifest = set->view->generation().manifest();
  const Fingerprint made_by{.query = manifest.query_fingerprint(), .passage = manifest.passage_fingerprint()};
  return CheckRoom(manager, set->encoder == nullptr ? made_by : set->encoder->spec().fingerprint, kTowers);
}

absl::StatusOr<storage::EncoderFidelity> MeasureStoreFidelity(GenerationManager& manager, std::string_view store, int64_t sample_count,
                                                              const OperationControl& control) {
  LOCI_RETURN_IF_ERROR(CheckStoreFidelity(manager, store));
  EncoderRegistry& encoders = manager.encoders();
  const auto check = [&](std::string_view phase, int64_t done, int64_t total) {
    if (control.progress) control.progress(phase, done, total);
    return control.limits.Check(RealClock().NowMicros());
  };
  LOCI_ASSIGN_OR_RETURN(const std::weak_ptr<const StoreEntry> identity, manager.Identify(store));
  storage::EncoderFidelity record;
  std::shared_ptr<TextEncoder> encoder;  // Held until its towers are loaded, lest it be deleted as one that nobody uses.
  std::vector<std::vector<int32_t>> sample;
  {
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const ServingSet> set, manager.Capture(store, ""));
    LOCI_ASSIGN_OR_RETURN(set, manager.WithEncoder(std::move(set)));
    const View& view = *set->view;
    LOCI_RETURN_IF_ERROR(CheckEnough(store, view));
    encoder = set->encoder;
    record.set_encoder_fingerprint(encoder->spec().fingerprint.ToString());
    record.set_generation(view.generation().id());
    record.set_revision(view.revision());
    record.set_passage_count(view.passage_count());
    if (control.chosen) control.chosen(record.generation());
    const std::vector<ViewRow> rows = DrawRows(view, sample_count);
    const int64_t count = static_cast<int64_t>(rows.size());
    for (size_t first = 0; first < rows.size(); first += kReadPassages) {
      LOCI_RETURN_IF_ERROR(check("sampling", static_cast<int64_t>(first), count));
      std::vector<loci::v1::Passage> passages;
      LOCI_RETURN_IF_ERROR(view.Read(std::span(rows).subspan(first, std::min(kReadPassages, rows.size() - first)), &passages));
      for (const loci::v1::Passage& passage : passages) {
        sample.push_back(FidelityTokens(encoder->encoder(), PassageText(passage.title(), passage.text())));
      }
    }
  }
  LOCI_RETURN_IF_ERROR(check("encoding", 0, static_cast<int64_t>(sample.size())));
  const Fingerprint fingerprint = encoder->spec().fingerprint;
  int left = kTowers;
  const auto load = [&](Precision precision) -> absl::StatusOr<std::shared_ptr<const Encoder>> {
    LOCI_RETURN_IF_ERROR(CheckRoom(manager, fingerprint, left--));
    return encoders.LoadPassageTower(fingerprint, precision);
  };
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const Encoder> reference, load(Precision::kFloat32));
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const Encoder> candidate, load(Precision::kInt8));
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Encoder> peer, load(encoders.precision()));
  if (peer->spec().element_type == reference->spec().element_type) peer = reference;
  encoder.reset();
  const EncoderPace pace(encoders, /*encoder=*/nullptr, /*max_share=*/1, control.limits);
  LOCI_ASSIGN_OR_RETURN(const Fidelity fidelity,
                        MeasureFidelityOfTokens(*reference, *peer, *candidate, sample, [&](std::string_view phase, int64_t done, int64_t total) {
                          LOCI_RETURN_IF_ERROR(check(phase, done, total));
                          return pace.Yield().status();
                        }));
  record.set_measured_unix_us(RealClock().UnixMicros());
  record.set_sample_count(fidelity.text_count);
  record.set_token_count(fidelity.token_count);
  record.set_cpu_isa(std::string(CpuIsaName(DetectCpuIsa())));
  AddPrecision(fidelity.reference, 1, 1, 1, fidelity.reference_tokens_per_s, &record);
  if (peer != reference) {
    AddPrecision(fidelity.peer, fidelity.peer_cosine_mean, fidelity.peer_cosine_min, fidelity.peer_top_10_overlap, fidelity.peer_tokens_per_s, &record);
  }
  AddPrecision(fidelity.candidate, fidelity.cosine_mean, fidelity.cosine_min, fidelity.top_10_overlap, fidelity.candidate_tokens_per_s, &record);
  // One that was asked to end, with all measured, leaves nothing: its job says so.
  LOCI_RETURN_IF_ERROR(check("comparing", fidelity.text_count, fidelity.text_count));
  LOCI_RETURN_IF_ERROR(manager.SetInt8Fidelity(store, identity, record));
  const storage::EncoderFidelity::Precision& int8 = record.precisions(record.precisions_size() - 1);
  LogInfo("store_fidelity", absl::StrCat("measured store=", AbslView(store), " encoder=", record.encoder_fingerprint(), " passages=", record.sample_count(),
                                         " int8 cosine=", int8.cosine_mean(), " top_10_overlap=", int8.top_10_overlap()));
  return record;
}

}  // namespace loci
