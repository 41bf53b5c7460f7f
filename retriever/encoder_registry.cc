#include "retriever/encoder_registry.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/checkpoint_files.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/logging.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/utf8.h"
#include "encoder/towers.h"
#include "google/protobuf/util/json_util.h"
#include "proto/loci/storage/storage.pb.h"
#include "retriever/encoder_files.h"

namespace loci {
namespace {

constexpr char kImportingPrefix[] = ".importing-";
constexpr char kPoolingDirectory[] = "1_Pooling";

storage::EncoderLineage LineageOf(Clock& clock, const EncoderSpec& spec) {
  storage::EncoderLineage lineage;
  lineage.set_format_version(1);
  lineage.set_query_fingerprint(spec.fingerprint.query);
  lineage.set_passage_fingerprint(spec.fingerprint.passage);
  lineage.set_model(spec.model_name);
  lineage.set_created_unix_us(clock.UnixMicros());
  return lineage;
}

absl::Status WriteLineage(FileSystem& fs, const storage::EncoderLineage& lineage, const std::string& directory) {
  google::protobuf::util::JsonPrintOptions json_options;
  json_options.add_whitespace = true;
  json_options.preserve_proto_field_names = true;
  std::string json;
  LOCI_CHECK(google::protobuf::util::MessageToJsonString(lineage, &json, json_options).ok());
  return WriteFileAtomically(fs, JoinPath(directory, kLineageFile), json);
}

// What is published again is as new as what is published first: see DeletePublished.
void RenewLineage(FileSystem& fs, Clock& clock, const std::string& directory) {
  absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(fs, directory);
  if (!lineage.ok() || lineage->parent_fingerprint().empty()) return;
  lineage->set_created_unix_us(clock.UnixMicros());
  const absl::Status written = WriteLineage(fs, *lineage, directory);
  if (!written.ok()) LogWarning("encoder_registry", absl::StrCat("an encoder that was published again may be deleted as an old one: ", written.message()));
}

// Makes a folder that has a checkpoint's files the encoder's, in the place of a damaged one: LINEAGE, then the folder's name.
absl::Status InstallCheckpoint(FileSystem& fs, const storage::EncoderLineage& lineage, const std::string& directory, const std::string& target) {
  LOCI_RETURN_IF_ERROR(WriteLineage(fs, lineage, directory));
  LOCI_RETURN_IF_ERROR(fs.SyncDirectory(JoinPath(directory, kPoolingDirectory)));
  LOCI_RETURN_IF_ERROR(fs.SyncDirectory(directory));
  LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(target));
  LOCI_RETURN_IF_ERROR(fs.Rename(directory, target));
  return fs.SyncDirectory(target.substr(0, target.rfind('/')));
}

// Copies a checkpoint to `directory` so that a crash leaves all of it or nothing: files, then LINEAGE, then the folder's name.
absl::Status CopyCheckpoint(FileSystem& fs, Clock& clock, const EncoderSpec& spec, const std::string& from,
                            const std::string& registry_directory) {
  const std::string name = EncoderFolder(spec.fingerprint);
  const std::string importing = JoinPath(registry_directory, absl::StrCat(kImportingPrefix, name));
  LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(importing));
  LOCI_RETURN_IF_ERROR(fs.CreateDirectories(JoinPath(importing, kPoolingDirectory)));
  storage::EncoderLineage lineage = LineageOf(clock, spec);
  for (const char* file : kCheckpointFiles) {
    if (!fs.Exists(JoinPath(from, file))) continue;
    LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> copy, fs.NewWritableFile(JoinPath(importing, file)));
    LOCI_ASSIGN_OR_RETURN(*lineage.add_files(), ReadFileEntry(fs, from, file, copy.get()));
    if (file == std::string_view(kQueryWeightsFile)) lineage.set_format_version(kLineageFormat);
    LOCI_RETURN_IF_ERROR(copy->Sync());
    LOCI_RETURN_IF_ERROR(copy->Close());
  }
  return InstallCheckpoint(fs, lineage, importing, JoinPath(registry_directory, name));
}

}  // namespace

bool IsCheckpointFile(std::string_view path) { return std::find(std::begin(kCheckpointFiles), std::end(kCheckpointFiles), path) != std::end(kCheckpointFiles); }

absl::StatusOr<std::unique_ptr<EncoderRegistry>> EncoderRegistry::Open(Options options) {
  FileSystem& fs = *options.fs;
  LOCI_RETURN_IF_ERROR(CreateDirectoriesSynced(fs, options.directory));
  LOCI_ASSIGN_OR_RETURN(std::vector<std::string> names, fs.List(options.directory));
  for (const std::string& name : names) {
    if (!absl::StartsWith(name, kImportingPrefix)) continue;
    LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(JoinPath(options.directory, name)));
  }
  return std::unique_ptr<EncoderRegistry>(new EncoderRegistry(std::move(options)));
}

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::Import(const std::string& model_directory, bool make_default) {
  MutexLock loading(&loading_);
  LOCI_ASSIGN_OR_RETURN(EncoderTowers towers, LoadEncoderTowers(*options_.fs, model_directory, options_.encoder));
  const EncoderSpec spec = towers.spec();
  const std::string target = JoinPath(options_.directory, EncoderFolder(spec.fingerprint));
  const auto copy = [&] { return CopyCheckpoint(*options_.fs, *options_.clock, spec, model_directory, options_.directory); };
  if (!options_.fs->Exists(target)) {
    LOCI_RETURN_IF_ERROR(copy());
  } else if (const absl::Status whole = CheckEncoderFiles(*options_.fs, target); absl::IsDataLoss(whole)) {
    // A start without the model would find it so. This one does not need it.
    const absl::Status copied = copy();
    LogWarning("encoder_registry", absl::StrCat(copied.ok() ? "replaced by the files of the model: " : "could not be replaced: ", whole.message(),
                                                copied.ok() ? "" : "; ", copied.message()));
  }
  return Insert(std::move(towers), make_default, /*stays=*/true);
}

absl::StatusOr<std::string> EncoderRegistry::MakeStagingDirectory() {
  int64_t number;
  {
    MutexLock lock(&mutex_);
    number = ++staging_count_;
  }
  const std::string directory = JoinPath(options_.directory, absl::StrCat(kImportingPrefix, "upload-", number));
  LOCI_RETURN_IF_ERROR(options_.fs->CreateDirectories(JoinPath(directory, kPoolingDirectory)));
  return directory;
}

std::string EncoderRegistry::Directory(const Fingerprint& encoder) const { return JoinPath(options_.directory, EncoderFolder(encoder)); }

absl::StatusOr<std::string> EncoderRegistry::CopyFiles(const Fingerprint& encoder, const std::string& staging_directory, TextRole weights_role,
                                                       const std::string& weights_file) {
  FileSystem& fs = *options_.fs;
  MutexLock loading(&loading_);  // Nobody replaces the folder meanwhile.
  const std::string name = EncoderFolder(encoder), from = JoinPath(options_.directory, name);
  const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(fs, from);
  if (absl::IsNotFound(lineage.status())) return DamagedEncoder(name, "its LINEAGE is gone");
  LOCI_RETURN_IF_ERROR(lineage.status());
  const bool two_towers =
      std::any_of(lineage->files().begin(), lineage->files().end(), [](const storage::FileEntry& file) { return file.path() == kQueryWeightsFile; });
  const std::string_view weights = weights_role == TextRole::kQuery && two_towers ? kQueryWeightsFile : kWeightsFile;
  std::string weights_sha256;
  for (const storage::FileEntry& file : lineage->files()) {
    const bool is_weights = file.path() == kWeightsFile || file.path() == kQueryWeightsFile;
    if (is_weights && (weights_file.empty() || file.path() != weights)) continue;
    LOCI_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> copy, fs.NewWritableFile(JoinPath(staging_directory, is_weights ? weights_file : file.path())));
    const absl::StatusOr<storage::FileEntry> copied = ReadFileEntry(fs, from, file.path(), copy.get());
    if (absl::IsNotFound(copied.status())) return DamagedEncoder(name, absl::StrCat("its ", file.path(), " is gone"));
    LOCI_RETURN_IF_ERROR(copied.status());
    if (copied->sha256() != file.sha256()) return DamagedEncoder(name, absl::StrCat("its ", file.path(), " is not what it was"));
    LOCI_RETURN_IF_ERROR(copy->Sync());
    LOCI_RETURN_IF_ERROR(copy->Close());
    if (is_weights) weights_sha256 = copied->sha256();
  }
  return weights_sha256;
}

absl::StatusOr<ImportedEncoder> EncoderRegistry::Adopt(const std::string& staging_directory, const std::string& model_name, const EncoderOrigin& origin) {
  FileSystem& fs = *options_.fs;
  MutexLock loading(&loading_);
  EncoderOptions encoder_options = options_.encoder;
  encoder_options.model_name = model_name;
  LOCI_ASSIGN_OR_RETURN(EncoderTowers towers, LoadEncoderTowers(fs, staging_directory, encoder_options, origin.passage_tower));
  const Fingerprint fingerprint = towers.spec().fingerprint;
  const std::string target = JoinPath(options_.directory, EncoderFolder(fingerprint));
  const auto install = [&](const EncoderSpec& spec) -> absl::Status {
    storage::EncoderLineage lineage = LineageOf(*options_.clock, spec);
    lineage.set_parent_fingerprint(origin.parent_fingerprint);
    lineage.set_job(origin.job);
    lineage.mutable_metrics()->insert(origin.metrics.begin(), origin.metrics.end());
    for (const char* file : kCheckpointFiles) {
      if (!fs.Exists(JoinPath(staging_directory, file))) continue;
      LOCI_ASSIGN_OR_RETURN(*lineage.add_files(), ReadFileEntry(fs, staging_directory, file, nullptr));
      if (file == std::string_view(kQueryWeightsFile)) lineage.set_format_version(kLineageFormat);
    }
    return InstallCheckpoint(fs, lineage, staging_directory, target);
  };
  if (fs.Exists(target)) {
    towers = {};
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<TextEncoder> there, Find(fingerprint.ToString()));
    absl::Status damage = CheckEncoderFiles(fs, target);
    if (there != nullptr) {
      if (!absl::IsDataLoss(damage)) {
        if (!origin.parent_fingerprint.empty()) RenewLineage(fs, *options_.clock, target);
        return ImportedEncoder{.encoder = std::move(there), .was_there = true};
      }
      LogWarning("encoder_registry", absl::StrCat("replaced, as it was sent again: ", damage.message()));
      LOCI_RETURN_IF_ERROR(install(there->spec()));
      return ImportedEncoder{.encoder = std::move(there)};
    }
    if (damage.ok()) {
      absl::StatusOr<std::shared_ptr<TextEncoder>> loaded = LoadLocked(EncoderFolder(fingerprint));
      if (loaded.ok() && !origin.parent_fingerprint.empty()) RenewLineage(fs, *options_.clock, target);
      if (loaded.ok()) return ImportedEncoder{.encoder = *std::move(loaded), .was_there = true};
      damage = loaded.status();
    }
    if (!absl::IsDataLoss(damage)) return damage;
    LogWarning("encoder_registry", absl::StrCat("replaced, as it was sent again: ", damage.message()));
    LOCI_ASSIGN_OR_RETURN(towers, LoadEncoderTowers(fs, staging_directory, encoder_options, origin.passage_tower));
  }
  // Also by one that is not loaded now.
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> namesakes, Folders(model_name));
  bool is_taken = std::any_of(namesakes.begin(), namesakes.end(), [&](const std::string& folder) { return folder != EncoderFolder(fingerprint); });
  for (const std::shared_ptr<TextEncoder>& loaded : Loaded()) is_taken = is_taken || loaded->spec().model_name == model_name;
  if (is_taken) {
    // Who names that one must not be told that two have the name.
    const std::string& half = origin.parent_fingerprint.empty() ? fingerprint.passage : fingerprint.query;
    towers.model_name = absl::StrCat(model_name, "-", half.substr(0, 8));
  }
  LOCI_RETURN_IF_ERROR(install(towers.spec()));
  return ImportedEncoder{.encoder = Insert(std::move(towers), /*make_default=*/false, /*stays=*/false)};
}

absl::StatusOr<int64_t> EncoderRegistry::DeletePublished(size_t keep, const std::set<std::string>& used) {
  FileSystem& fs = *options_.fs;
  MutexLock loading(&loading_);
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, Folders());
  std::vector<std::pair<int64_t, std::string>> published;
  for (const std::string& name : names) {
    const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(fs, JoinPath(options_.directory, name));
    if (lineage.ok() && !lineage->parent_fingerprint().empty()) published.emplace_back(lineage->created_unix_us(), name);
  }
  std::sort(published.begin(), published.end());
  int64_t deleted_count = 0;
  for (size_t i = 0; i + keep < published.size(); ++i) {
    const std::string& name = published[i].second;
    const std::string fingerprint = absl::StrReplaceAll(name, {{"-", ":"}});
    if (used.contains(fingerprint) || used.contains(fingerprint.substr(fingerprint.find(':') + 1))) continue;
    std::shared_ptr<TextEncoder> unused;  // Freed after `mutex_` is given back.
    {
      MutexLock lock(&mutex_);
      if (const auto int8 = int8_.find(fingerprint); int8 != int8_.end() && !int8->second.expired()) continue;
      const auto loaded = loaded_.find(fingerprint);
      if (loaded != loaded_.end()) {
        if (loaded->second.use_count() > 1 || staying_.contains(fingerprint) || default_ == fingerprint) continue;
        unused = std::move(loaded->second);
        loaded_.erase(loaded);
      }
    }
    // Whole or not at all; what is left of the deletion is removed by the next start.
    const std::string aside = JoinPath(options_.directory, absl::StrCat(kImportingPrefix, "deleted-", name));
    LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(aside));  // Of a deletion that failed.
    LOCI_RETURN_IF_ERROR(fs.Rename(JoinPath(options_.directory, name), aside));
    LOCI_RETURN_IF_ERROR(fs.SyncDirectory(options_.directory));
    LOCI_RETURN_IF_ERROR(fs.DeleteRecursively(aside));
    LogInfo("encoder_registry", absl::StrCat("deleted published fingerprint=", fingerprint, ", which nothing uses; the newest ", keep, " are kept"));
    ++deleted_count;
  }
  return deleted_count;
}

std::shared_ptr<TextEncoder> EncoderRegistry::Insert(EncoderTowers towers, bool make_default, bool stays) {
  const std::string fingerprint = towers.spec().fingerprint.ToString();
  std::vector<std::shared_ptr<TextEncoder>> unused;
  std::shared_ptr<TextEncoder> inserted;
  {
    MutexLock lock(&mutex_);
    if (make_default) default_ = fingerprint;
    if (stays) staying_.insert(fingerprint);
    unused = TakeUnused(fingerprint);
    std::shared_ptr<TextEncoder>& slot = loaded_[fingerprint];
    if (slot == nullptr) {
      slot = std::make_shared<TextEncoder>(std::move(towers), options_.batcher, *options_.clock, *options_.metrics);
      LogInfo("encoder_registry", absl::StrCat("loaded ", slot->spec().model_name, " fingerprint=", fingerprint, " dim=", slot->spec().dim));
    }
    inserted = slot;
  }
  FreeApart(std::move(unused));
  return inserted;
}

std::vector<std::shared_ptr<TextEncoder>> EncoderRegistry::TakeUnused(const std::string& fingerprint) {
  std::vector<std::shared_ptr<TextEncoder>> unused;
  for (auto loaded = loaded_.begin(); loaded != loaded_.end();) {
    // Who holds none can get one from here alone, under the lock.
    if (loaded->first == fingerprint || staying_.contains(loaded->first) || loaded->second.use_count() > 1) {
      ++loaded;
      continue;
    }
    LogInfo("encoder_registry", absl::StrCat("unloaded fingerprint=", loaded->first, ", which nobody uses"));
    unused.push_back(std::move(loaded->second));
    loaded = loaded_.erase(loaded);
  }
  return unused;
}

namespace {

absl::Status Int8Unavailable(std::string_view why) {
  return ErrorWithReason(absl::FailedPreconditionError(absl::StrCat("texts can't be encoded in int8: ", AbslView(why))), "INT8_UNAVAILABLE");
}

}  // namespace

absl::StatusOr<EncoderTowers> EncoderRegistry::ReadTowers(const std::string& directory, EncoderOptions options, bool passage_alone) {
  const std::string path = JoinPath(options_.directory, directory);
  const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(*options_.fs, path);
  if (absl::IsNotFound(lineage.status())) return DamagedEncoder(directory, "its LINEAGE is gone");
  LOCI_RETURN_IF_ERROR(lineage.status());
  options.model_name = lineage->model();
  const auto load = [&]() -> absl::StatusOr<EncoderTowers> {
    if (!passage_alone) return LoadEncoderTowers(*options_.fs, path, options);
    LOCI_ASSIGN_OR_RETURN(std::shared_ptr<const Encoder> passage, LoadEncoder(*options_.fs, path, options));
    return EncoderTowers{.passage = std::move(passage), .query = nullptr, .model_name = options.model_name, .element_type_reason = ""};
  };
  absl::StatusOr<EncoderTowers> towers = load();
  // It was an encoder when it was put there; that it would be one in int8 nobody has said.
  const absl::StatusCode code = towers.status().code();
  if (options.precision == Precision::kInt8 && (code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kFailedPrecondition)) {
    return Int8Unavailable(StdView(towers.status().message()));
  }
  if (code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kNotFound || code == absl::StatusCode::kDataLoss) {
    return DamagedEncoder(directory, StdView(towers.status().message()));
  }
  LOCI_RETURN_IF_ERROR(towers.status());
  const Fingerprint fingerprint = towers->spec().fingerprint;
  const std::optional<Fingerprint> expected = FingerprintOfFolder(directory);
  // The query half of two towers is of what was not read.
  if (!expected.has_value() || expected->passage != fingerprint.passage || (!passage_alone && expected->query != fingerprint.query)) {
    return DamagedEncoder(directory, absl::StrCat("the files in ", path, " have fingerprint ", fingerprint.ToString()));
  }
  return towers;
}

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::LoadLocked(const std::string& directory) {
  LOCI_ASSIGN_OR_RETURN(EncoderTowers towers, ReadTowers(directory, options_.encoder));
  return Insert(std::move(towers), /*make_default=*/false, /*stays=*/false);
}

absl::Status EncoderRegistry::CheckInt8() const {
  if (options_.encoder.cuda == nullptr) return absl::OkStatus();
  return Int8Unavailable("this server's encoders run on a CUDA device, which has none in int8");
}

absl::StatusOr<std::shared_ptr<const Encoder>> EncoderRegistry::LoadPassageTower(const Fingerprint& encoder, Precision precision) {
  EncoderOptions options = options_.encoder;
  options.precision = precision;
  options.pool = nullptr;
  options.cuda = nullptr;
  MutexLock loading(&loading_);
  LOCI_ASSIGN_OR_RETURN(const EncoderTowers towers, ReadTowers(EncoderFolder(encoder), std::move(options), /*passage_alone=*/true));
  return towers.passage;
}

void EncoderRegistry::FreeApart(std::vector<std::shared_ptr<TextEncoder>> unused) const {
  if (!unused.empty()) (void)unloader_->TrySubmit([unused = std::move(unused)]() mutable { unused.clear(); });
}

std::shared_ptr<TextEncoder> EncoderRegistry::FreedApart(std::unique_ptr<TextEncoder> encoder) const {
  return {encoder.release(), [unloader = std::weak_ptr<ThreadPool>(unloader_)](TextEncoder* unused) {
            const auto free = [unused] {
              const std::string fingerprint = unused->spec().fingerprint.ToString();
              delete unused;
              LogInfo("encoder_registry", absl::StrCat("unloaded fingerprint=", fingerprint, " in int8, which nobody uses"));
            };
            const std::shared_ptr<ThreadPool> thread = unloader.lock();
            if (thread == nullptr || !thread->TrySubmit(free)) free();
          }};
}

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::ComputedAs(std::shared_ptr<TextEncoder> encoder, bool int8) {
  if ((encoder->precision() == VectorPrecision::kInt8) == int8) return encoder;
  const Fingerprint fingerprint = encoder->spec().fingerprint;
  if (!int8) return Load(fingerprint.ToString(), /*by_model=*/false);
  LOCI_RETURN_IF_ERROR(CheckInt8());
  const auto find = [&]() -> std::shared_ptr<TextEncoder> {
    MutexLock lock(&mutex_);
    const auto found = int8_.find(fingerprint.ToString());
    return found == int8_.end() ? nullptr : found->second.lock();
  };
  if (std::shared_ptr<TextEncoder> loaded = find(); loaded != nullptr) return loaded;
  MutexLock loading(&loading_);
  if (std::shared_ptr<TextEncoder> loaded = find(); loaded != nullptr) return loaded;  // By another that was quicker.
  EncoderOptions options = options_.encoder;
  options.precision = Precision::kInt8;
  LOCI_ASSIGN_OR_RETURN(EncoderTowers towers, ReadTowers(EncoderFolder(fingerprint), std::move(options)));
  const bool has_vnni = options_.encoder.isa == CpuIsa::kAvx512 && DetectCpuExtensions().vnni;
  towers.element_type_reason = absl::StrCat("stores are set to int8; the CPU has ", has_vnni ? "AVX-512 VNNI" : "no AVX-512 VNNI, so that it is slower");
  std::shared_ptr<TextEncoder> computed =
      FreedApart(std::make_unique<TextEncoder>(std::move(towers), options_.batcher, *options_.clock, *options_.metrics));
  LogInfo("encoder_registry", absl::StrCat("loaded ", computed->spec().model_name, " fingerprint=", fingerprint.ToString(), " in int8"));
  std::vector<std::shared_ptr<TextEncoder>> unused;
  {
    MutexLock lock(&mutex_);
    unused = TakeUnused(fingerprint.ToString());
    std::erase_if(int8_, [](const auto& other) { return other.second.expired(); });
    int8_[fingerprint.ToString()] = computed;
  }
  FreeApart(std::move(unused));
  return computed;
}

namespace {

bool Matches(std::string_view name, const Fingerprint& candidate) {
  return name == candidate.ToString() || name == candidate.query || name == candidate.passage;
}

absl::Status Ambiguous(std::string_view name, const std::string& one, const std::string& other) {
  return ErrorWithReason(absl::InvalidArgumentError(absl::StrCat("\"", AbslView(name), "\" is the name of encoders ", one, " and ", other,
                                                                 "; name one by its fingerprint")),
                         "ENCODER_AMBIGUOUS", {{"encoder", std::string(name)}, {"field", "encoder"}});
}

// "QUERY:PASSAGE" of the encoder in the registry that one half names: one that was imported as it is, else the only other one; empty where there is
// none. INVALID_ARGUMENT, reason ENCODER_AMBIGUOUS, for two others.
absl::StatusOr<std::string> ResolveHalf(FileSystem& fs, const std::string& directory, std::string_view half) {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.List(directory));
  std::vector<std::string> others;  // Published, or damaged.
  for (const std::string& name : names) {
    const std::optional<Fingerprint> fingerprint = FingerprintOfFolder(name);
    if (!fingerprint.has_value() || (fingerprint->query != half && fingerprint->passage != half)) continue;
    const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(fs, JoinPath(directory, name));
    if (lineage.ok() && lineage->parent_fingerprint().empty()) return fingerprint->ToString();
    others.push_back(fingerprint->ToString());
  }
  if (others.size() > 1) return Ambiguous(half, others[0], others[1]);
  return others.empty() ? std::string() : others[0];
}

}  // namespace

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::Find(std::string_view name) const {
  MutexLock lock(&mutex_);
  const auto default_encoder = loaded_.find(default_);
  if (default_encoder != loaded_.end() && (name.empty() || Matches(name, default_encoder->second->spec().fingerprint))) {
    return default_encoder->second;
  }
  if (name.empty()) {
    return ErrorWithReason(absl::NotFoundError("this server has no default encoder; start it with --model"), "NO_DEFAULT_ENCODER");
  }
  if (const auto whole = loaded_.find(std::string(name)); whole != loaded_.end()) return whole->second;
  std::shared_ptr<TextEncoder> named, of_half;
  for (const auto& [fingerprint, encoder] : loaded_) {
    const bool is_half = Matches(name, encoder->spec().fingerprint);
    if (!is_half && encoder->spec().model_name != name) continue;
    std::shared_ptr<TextEncoder>& found = is_half ? of_half : named;
    if (found != nullptr) return Ambiguous(name, found->spec().fingerprint.ToString(), fingerprint);
    found = encoder;
  }
  return of_half != nullptr ? of_half : named;
}

absl::StatusOr<std::vector<std::string>> EncoderRegistry::Folders(std::string_view model_name) const {
  LOCI_ASSIGN_OR_RETURN(std::vector<std::string> names, options_.fs->List(options_.directory));
  std::erase_if(names, [&](const std::string& name) {
    if (absl::StartsWith(name, ".")) return true;
    if (model_name.empty()) return false;
    const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(*options_.fs, JoinPath(options_.directory, name));
    return !lineage.ok() || StdView(lineage->model()) != model_name;
  });
  return names;
}

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::Get(std::string_view name) { return Load(name, /*by_model=*/true); }

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::Load(std::string_view name, bool by_model) {
  if (IsHex(name, kHalfDigits)) {
    if (const auto default_encoder = Find(""); default_encoder.ok() && Matches(name, (*default_encoder)->spec().fingerprint)) return *default_encoder;
    // Of those that lie in the registry, whether they are loaded or not: else the answer would change with what others ask for.
    LOCI_ASSIGN_OR_RETURN(const std::string fingerprint, ResolveHalf(*options_.fs, options_.directory, name));
    if (!fingerprint.empty()) return Load(fingerprint, /*by_model=*/false);
  }
  LOCI_ASSIGN_OR_RETURN(std::shared_ptr<TextEncoder> loaded, Find(name));
  if (loaded != nullptr) return loaded;
  MutexLock loading(&loading_);
  LOCI_ASSIGN_OR_RETURN(loaded, Find(name));  // By another that was quicker.
  if (loaded != nullptr) return loaded;
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> directories, Folders());
  for (const std::string& directory : directories) {
    const std::optional<Fingerprint> fingerprint = FingerprintOfFolder(directory);
    if (fingerprint.has_value() && Matches(name, *fingerprint)) return LoadLocked(directory);
  }
  if (by_model) {
    LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> named, Folders(name));
    if (named.size() > 1) return Ambiguous(name, absl::StrReplaceAll(named[0], {{"-", ":"}}), absl::StrReplaceAll(named[1], {{"-", ":"}}));
    if (named.size() == 1) return LoadLocked(named[0]);
  }
  const std::string_view shown = name.substr(0, Utf8Prefix(name, 80));
  return ErrorWithReason(absl::NotFoundError(absl::StrCat("this server has no encoder \"", AbslView(shown),
                                                          "\"; encoders are named QUERY:PASSAGE, 16 hex digits each, by one half, or by the "
                                                          "folder that they were loaded from")),
                         "ENCODER_NOT_FOUND", {{"encoder", std::string(shown)}});
}

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::ForPassageHalf(std::string_view passage_half) {
  const absl::StatusOr<std::shared_ptr<TextEncoder>> default_encoder = Find("");
  if (default_encoder.ok() && (*default_encoder)->spec().fingerprint.passage == passage_half) return *default_encoder;
  LOCI_ASSIGN_OR_RETURN(std::vector<std::string> names, FoldersOfHalf(passage_half));
  for (std::string& name : names) name = absl::StrReplaceAll(name, {{"-", ":"}});
  for (const std::string& name : names) {
    const absl::StatusOr<std::shared_ptr<TextEncoder>> found = Load(name, /*by_model=*/false);
    if (!absl::IsNotFound(found.status())) return found;
  }
  for (const std::shared_ptr<TextEncoder>& loaded : Loaded()) {  // One whose folder somebody took away.
    if (loaded->spec().fingerprint.passage == passage_half && loaded->precision() != VectorPrecision::kInt8) return loaded;
  }
  return ErrorWithReason(
      absl::FailedPreconditionError(absl::StrCat("no encoder of this server serves vectors of the passage half \"",
                                                 AbslView(passage_half.substr(0, 80)), "\"")),
      "ENCODER_MISMATCH", {{"passage_fingerprint", std::string(passage_half.substr(0, 80))}});
}

absl::StatusOr<std::shared_ptr<TextEncoder>> EncoderRegistry::ForVectors(const Fingerprint& made_by) {
  const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(*options_.fs, Directory(made_by));
  if (!lineage.ok() || lineage->parent_fingerprint().empty()) {
    const absl::StatusOr<std::shared_ptr<TextEncoder>> default_encoder = Find("");
    if (default_encoder.ok() && (*default_encoder)->spec().fingerprint.passage == made_by.passage) return *default_encoder;
  }
  absl::StatusOr<std::shared_ptr<TextEncoder>> found = Load(made_by.ToString(), /*by_model=*/false);
  return absl::IsNotFound(found.status()) ? ForPassageHalf(made_by.passage) : found;
}

absl::StatusOr<std::vector<std::string>> EncoderRegistry::FoldersOfHalf(std::string_view passage_half) const {
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> names, Folders());
  std::vector<std::string> imported, damaged, published;
  for (const std::string& name : names) {
    const std::optional<Fingerprint> fingerprint = FingerprintOfFolder(name);
    if (!fingerprint.has_value() || fingerprint->passage != passage_half) continue;
    const absl::StatusOr<storage::EncoderLineage> lineage = ReadLineage(*options_.fs, JoinPath(options_.directory, name));
    (!lineage.ok() ? damaged : lineage->parent_fingerprint().empty() ? imported : published).push_back(name);
  }
  imported.insert(imported.end(), damaged.begin(), damaged.end());
  imported.insert(imported.end(), published.begin(), published.end());
  return imported;
}

std::vector<std::shared_ptr<TextEncoder>> EncoderRegistry::Loaded() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<TextEncoder>> encoders;
  const auto default_encoder = loaded_.find(default_);
  if (default_encoder != loaded_.end()) encoders.push_back(default_encoder->second);
  for (const auto& [fingerprint, encoder] : loaded_) {
    if (fingerprint != default_) encoders.push_back(encoder);
  }
  for (const auto& [fingerprint, encoder] : int8_) {
    if (std::shared_ptr<TextEncoder> used = encoder.lock(); used != nullptr) encoders.push_back(std::move(used));
  }
  return encoders;
}

}  // namespace loci
