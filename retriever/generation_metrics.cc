// GenerationManager: what metrics say of stores, generations and memory.
#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "index/certified_scan.h"
#include "index/exact_index.h"
#include "index/manifest.h"
#include "retriever/generation_manager.h"
#include "retriever/generation_manager_state.h"

namespace loci {
namespace {

constexpr std::array<const char*, 8> kStateNames = {"loading", "verifying", "warming", "ready", "serving", "draining", "retired", "failed"};
static_assert(kStateNames.size() == static_cast<size_t>(GenerationState::kFailed) + 1);

// Collects samples. Used by one thread.
class Samples {
 public:
  void Add(const char* name, const char* help, MetricLabels labels, double value) {
    samples_.push_back({name, help, std::move(labels), value});
  }
  void Memory(const char* owner, const char* kind, const char* of, const std::string& whose, int64_t bytes) {
    Add("loci_memory_bytes", "Memory by owner; kind mapped: files, of which the page cache holds what it can; kind device: not the host's.",
        {{"owner", owner}, {"kind", kind}, {of, whose}}, static_cast<double>(bytes));
  }
  std::vector<GaugeSample> Take() { return std::move(samples_); }

 private:
  std::vector<GaugeSample> samples_;
};

// `device_search`: whether there is a device for it.
void AddStore(const StoreEntry& entry, const Store* store, bool device_search, Samples& samples) {
  const MetricLabels labels = {{"store", entry.name}};
  samples.Add("loci_store_available", "1, or 0 for a store that could not be opened, or whose active generation could not, or is being switched in place.", labels,
              store != nullptr && store->active_error().ok() && !entry.switching().has_value());
  const std::shared_ptr<const ServingSet> active = entry.holder.Get();
  const View* const view = active == nullptr ? nullptr : active->view.get();
  const int64_t revision = view != nullptr ? view->revision() : store != nullptr ? store->revision() : 0;
  samples.Add("loci_store_passages", "Passages that the active view can find.", labels, view == nullptr ? 0 : view->passage_count());
  samples.Add("loci_store_overlay_passages", "Passages of the active view that were upserted since its generation was built.", labels,
              view == nullptr ? 0 : view->overlay_count());
  samples.Add("loci_store_overlay_bytes", "Memory of the active view's overlay.", labels, view == nullptr ? 0 : view->overlay_memory_bytes());
  samples.Add("loci_store_revision", "Revision of the active view.", labels, revision);
  if (view != nullptr) {
    const storage::Manifest& manifest = view->generation().manifest();
    samples.Add("loci_store_recall_at_10", "Recall of the active generation's index, measured when it was built; 1 for exact.", labels,
                manifest.recall_at_10());
    samples.Add("loci_store_generation_created_seconds", "When the active generation was built, since 1970-01-01 UTC.", labels,
                static_cast<double>(manifest.created_unix_us()) / 1e6);
    const CertifiedScan& scan = view->generation().exact_index().cpu()->certified_scan();
    samples.Add("loci_store_scan_answered_queries",
                "Queries that were searched exactly by a pass over 8-bit codes, after which few rows were scored. Since the "
                "active generation was opened, as all loci_store_scan_*.",
                labels, static_cast<double>(scan.answered_count()));
    samples.Add("loci_store_scan_scored_rows",
                "Rows that were scored for the answered queries of loci_store_scan_answered_queries, once the pass over 8-bit "
                "codes had left no others.",
                labels, static_cast<double>(scan.scored_count()));
    samples.Add("loci_store_scan_given_up_queries",
                "Queries searched exactly for which the pass over 8-bit codes was in vain: it left too many rows, so that all "
                "were scored.",
                labels, static_cast<double>(scan.given_up_count()));
    samples.Add("loci_store_scan_skipped_searches",
                "Exact searches, of one query or more, that scored all rows without a pass over 8-bit codes, since the passes "
                "before had given up most of their queries.",
                labels, static_cast<double>(scan.skipped_count()));
  }

  std::array<int64_t, kStateNames.size()> counts{};
  for (const GenerationState state : entry.States(view == nullptr ? "" : view->generation().id())) ++counts[static_cast<size_t>(state)];
  for (size_t i = 0; i < counts.size(); ++i) {
    samples.Add("loci_generations", "Complete generations by state.", {{"store", entry.name}, {"state", kStateNames[i]}},
                static_cast<double>(counts[i]));
  }

  if (device_search) {
    const PlacedExactIndex* const exact = view == nullptr ? nullptr : &view->generation().exact_index();
    const std::shared_ptr<const DeviceExactIndex> device = exact == nullptr ? nullptr : exact->device();
    samples.Add("loci_store_device_search", "1 where a device searches the active generation exactly, else 0.", labels, device != nullptr);
    samples.Add("loci_store_device_search_refused", "1 where that was meant for a device and the CPU does it, since it found no room there or can't be had.",
                labels, exact != nullptr && !exact->refusal().ok());
    const DeviceExactIndex::Counts counts = device == nullptr ? DeviceExactIndex::Counts() : device->counts();
    for (const auto& [result, count] : {std::pair("answered", counts.answered), std::pair("repeated", counts.repeated), std::pair("left", counts.left)}) {
      samples.Add("loci_store_device_search_queries",
                  "Queries since the active generation came to the device: answered there, those of them that were scanned for again, left to the CPU.",
                  {{"store", entry.name}, {"result", result}}, static_cast<double>(count));
    }
  }

  // Whatever is in memory: the active one, those that requests named, and those that requests still hold.
  int64_t vectors = 0, index = 0, passages = 0, columns = 0, columns_mapped = 0, codes = 0, manifests = 0, pinned = 0, on_device = 0;
  for (const std::shared_ptr<const Generation>& generation : entry.Live()) {
    for (const storage::FileEntry& file : generation->manifest().files()) {
      if (file.path() == kVectorsFile) vectors += file.size_bytes();
      if (file.path() == kCodesFile) codes += file.size_bytes();
      if (file.path() == kColumnsFile) columns_mapped += file.size_bytes();
    }
    manifests += static_cast<int64_t>(generation->manifest().SpaceUsedLong());
    const PlacedExactIndex& exact = generation->exact_index();
    const PassageIndex& searched = generation->index();
    index += &searched == &exact ? exact.cpu()->memory_bytes() : searched.memory_bytes();  // Pinned memory is told apart.
    passages += generation->passages().memory_bytes();
    if (const std::shared_ptr<const DeviceExactIndex> device = exact.device(); device != nullptr) {
      pinned += device->memory_bytes();
      on_device += device->device_bytes();
    }
    columns += generation->columns() == nullptr ? 0 : generation->columns()->memory_bytes();
  }
  samples.Memory("vectors", "mapped", "store", entry.name, vectors);
  samples.Memory("codes", "mapped", "store", entry.name, codes);
  samples.Memory("columns", "mapped", "store", entry.name, columns_mapped);
  samples.Memory("columns", "resident", "store", entry.name, columns);
  samples.Memory("index", "resident", "store", entry.name, index);
  samples.Memory("passages", "resident", "store", entry.name, passages);
  samples.Memory("manifest", "resident", "store", entry.name, manifests);
  if (device_search) {
    samples.Memory("search", "pinned", "store", entry.name, pinned);
    samples.Memory("search", "device", "store", entry.name, on_device);
  }
  samples.Memory("overlay", "resident", "store", entry.name, view == nullptr ? 0 : view->overlay_memory_bytes());
}

}  // namespace

std::vector<GaugeSample> GenerationManager::Metrics() const {
  Samples samples;
  for (const std::shared_ptr<StoreEntry>& entry : state_->Entries()) {
    const absl::StatusOr<std::shared_ptr<Store>> store = entry->GetStore();
    if (absl::IsNotFound(store.status())) continue;  // It is being made or deleted.
    AddStore(*entry, store.ok() ? store->get() : nullptr, state_->options.exact_placer != nullptr, samples);
  }
  for (const std::shared_ptr<TextEncoder>& encoder : state_->options.encoders->Loaded()) {
    const std::string suffix = encoder->precision() == VectorPrecision::kInt8 ? ":int8" : "";
    samples.Memory("encoder", "resident", "encoder", encoder->spec().fingerprint.ToString() + suffix, encoder->spec().memory_bytes);
  }
  samples.Add("loci_generations_draining", "Generations that were replaced and that requests still hold.", {},
              static_cast<double>(state_->drainer.draining_count()));
  return samples.Take();
}

}  // namespace loci
