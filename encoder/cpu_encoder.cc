#include "encoder/cpu_encoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "encoder/check_batch.h"
#include "encoder/kernels/aligned.h"
#include "encoder/kernels/embedding.h"
#include "encoder/kernels/pooling.h"

namespace loci {
namespace {

// With idle threads, a batch is cut down to blocks of so many tokens.
constexpr int64_t kMinBlockTokens = 24;

absl::StatusOr<std::unique_ptr<const CpuLayers>> ReadLayers(Precision precision, const BertReader& reader, const ModelConfig& config,
                                                            const BertEmbeddings& embeddings, CpuIsa isa) {
  switch (precision) {
    case Precision::kFloat32:
      return ReadFloat32Layers(reader, config, isa);
    case Precision::kBfloat16:
      return ReadHalfLayers(reader, config, HalfType::kBfloat16, embeddings);
    case Precision::kFloat16:
      return ReadHalfLayers(reader, config, HalfType::kFloat16, embeddings);
    case Precision::kInt8:
      return ReadInt8Layers(reader, config, isa, DetectCpuExtensions(), embeddings);
    case Precision::kAuto:
      break;
  }
  return absl::InternalError(absl::StrCat("no layers in ", AbslView(PrecisionName(precision))));
}

}  // namespace

// What one block needs.
struct CpuEncoder::Workspace {
  int64_t tokens = 0;            // What there is room for.
  std::vector<int32_t> ids;      // [tokens]
  std::vector<int32_t> offsets;  // Of the block's sequences.
  AlignedFloats hidden;          // [tokens, hidden_size]
  std::unique_ptr<CpuLayers::Workspace> layers;
};

// How a batch is cut: block b has the sequences order[starts[b]] .. order[starts[b + 1] - 1].
struct CpuEncoder::Plan {
  std::vector<int32_t> order;
  std::vector<int32_t> starts;
  int64_t max_block_tokens = 0;
};

CpuEncoder::CpuEncoder(const ModelConfig& config, EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer, ThreadPool* pool,
                       CpuIsa isa)
    : config_(config), spec_(std::move(spec)), tokenizer_(std::move(tokenizer)), pool_(pool), isa_(isa) {}

CpuEncoder::~CpuEncoder() = default;

absl::StatusOr<std::shared_ptr<const Encoder>> CpuEncoder::Create(const BertReader& reader, const ModelConfig& config,
                                                                  EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer,
                                                                  const EncoderOptions& options) {
  LOCI_ASSIGN_OR_RETURN(PrecisionChoice choice, ChoosePrecision(options.precision, options.isa, DetectCpuExtensions()));
  auto encoder = std::shared_ptr<CpuEncoder>(new CpuEncoder(config, std::move(spec), std::move(tokenizer), options.pool, options.isa));
  LOCI_ASSIGN_OR_RETURN(encoder->embeddings_, reader.ReadEmbeddings());
  const BertEmbeddings& embeddings = encoder->embeddings_;
  auto layers = ReadLayers(choice.precision, reader, config, embeddings, options.isa);
  if (options.precision == Precision::kAuto && absl::IsFailedPrecondition(layers.status())) {
    choice = {Precision::kFloat32, absl::StrCat("auto takes float32: not ", AbslView(PrecisionName(choice.precision)), ", since in ",
                                                layers.status().message())};
    layers = ReadLayers(choice.precision, reader, config, embeddings, options.isa);
  }
  LOCI_ASSIGN_OR_RETURN(encoder->layers_, std::move(layers));
  encoder->spec_.element_type = PrecisionName(choice.precision);
  encoder->spec_.element_type_reason = std::move(choice.reason);
  encoder->spec_.memory_bytes = embeddings.word.size_bytes() + embeddings.position.size_bytes() + 3 * embeddings.type.size_bytes() +
                                encoder->layers_->memory_bytes();
  return encoder;
}

void CpuEncoder::MakePlan(const PackedBatch& batch, Plan* plan) const {
  const int64_t count = batch.sequence_count();
  const auto length = [&batch](int32_t i) { return batch.offsets[i + 1] - batch.offsets[i]; };
  plan->order.resize(count);
  for (int64_t i = 0; i < count; ++i) plan->order[i] = static_cast<int32_t>(i);
  // The longest first, so that the blocks that are left for the end are small.
  std::sort(plan->order.begin(), plan->order.end(),
            [&](int32_t a, int32_t b) { return std::pair(-length(a), a) < std::pair(-length(b), b); });
  const int64_t threads = 1 + (pool_ == nullptr ? 0 : pool_->thread_count());
  const int64_t tokens = batch.token_count();
  const int64_t most = layers_->max_block_tokens();
  int64_t blocks = (tokens + most - 1) / most;
  if (blocks < threads) blocks = std::min(threads, std::max<int64_t>(1, tokens / kMinBlockTokens));
  const int64_t target = (tokens + blocks - 1) / blocks;
  plan->starts.assign(1, 0);
  plan->max_block_tokens = 0;
  int64_t in_block = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t next = length(plan->order[i]);
    // Ends a block where that leaves it nearer to the target.
    if (in_block > 0 && in_block + next - target > target - in_block) {
      plan->starts.push_back(static_cast<int32_t>(i));
      in_block = 0;
    }
    in_block += next;
    plan->max_block_tokens = std::max(plan->max_block_tokens, in_block);
  }
  plan->starts.push_back(static_cast<int32_t>(count));
}

std::unique_ptr<CpuEncoder::Workspace> CpuEncoder::TakeWorkspace(int64_t tokens) const {
  std::unique_ptr<Workspace> workspace;
  {
    MutexLock lock(&mutex_);
    if (!free_workspaces_.empty()) {
      workspace = std::move(free_workspaces_.back());
      free_workspaces_.pop_back();
    }
  }
  if (workspace != nullptr && workspace->tokens >= tokens) return workspace;
  // The largest that any batch needs, so that it is made once.
  const int64_t room = std::max({tokens, 2 * layers_->max_block_tokens(), static_cast<int64_t>(spec_.max_length)});
  workspace = std::make_unique<Workspace>();
  workspace->tokens = room;
  workspace->ids.reserve(room);
  workspace->offsets.reserve(room + 1);
  workspace->hidden = AlignedFloats(room * config_.hidden_size);
  workspace->layers = layers_->MakeWorkspace(room);
  return workspace;
}

std::unique_ptr<CpuEncoder::Plan> CpuEncoder::TakePlan() const {
  MutexLock lock(&mutex_);
  if (free_plans_.empty()) return std::make_unique<Plan>();
  std::unique_ptr<Plan> plan = std::move(free_plans_.back());
  free_plans_.pop_back();
  return plan;
}

void CpuEncoder::RunBlock(const PackedBatch& batch, const Plan& plan, int64_t block, Workspace* w, float* vectors) const {
  w->ids.clear();
  w->offsets.assign(1, 0);
  for (int32_t i = plan.starts[block]; i < plan.starts[block + 1]; ++i) {
    const int32_t sequence = plan.order[i];
    w->ids.insert(w->ids.end(), batch.token_ids.begin() + batch.offsets[sequence],
                  batch.token_ids.begin() + batch.offsets[sequence + 1]);
    w->offsets.push_back(static_cast<int32_t>(w->ids.size()));
  }
  const int64_t sequences = static_cast<int64_t>(w->offsets.size()) - 1;
  const int64_t hidden = config_.hidden_size;
  Embedding(isa_, w->hidden.data(), w->ids.data(), w->offsets.data(), sequences, embeddings_.tables(config_.layer_norm_epsilon),
            hidden);
  layers_->Run(w->hidden.data(), w->offsets.data(), sequences, *w->layers);
  for (int64_t s = 0; s < sequences; ++s) {
    float* vector = vectors + plan.order[plan.starts[block] + s] * hidden;
    Pool(isa_, vector, w->hidden.data(), w->offsets.data() + s, 1, hidden, config_.pooling, config_.normalize);
  }
}

absl::Status CpuEncoder::Encode(const PackedBatch& batch, float* vectors) const {
  LOCI_RETURN_IF_ERROR(CheckBatch(batch, spec_.max_length, config_.vocabulary_size));
  if (batch.sequence_count() == 0) return absl::OkStatus();
  std::unique_ptr<Plan> plan = TakePlan();
  MakePlan(batch, plan.get());
  const auto run = [&](int64_t block) {
    std::unique_ptr<Workspace> workspace = TakeWorkspace(plan->max_block_tokens);
    RunBlock(batch, *plan, block, workspace.get(), vectors);
    MutexLock lock(&mutex_);
    free_workspaces_.push_back(std::move(workspace));
  };
  const int64_t blocks = static_cast<int64_t>(plan->starts.size()) - 1;
  if (pool_ == nullptr || blocks == 1) {
    for (int64_t block = 0; block < blocks; ++block) run(block);
  } else {
    pool_->ParallelFor(blocks, [&run](int64_t block) { run(block); });
  }
  MutexLock lock(&mutex_);
  free_plans_.push_back(std::move(plan));
  return absl::OkStatus();
}

}  // namespace loci
