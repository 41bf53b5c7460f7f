#include "encoder/cuda/cuda_encoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "encoder/check_batch.h"
#include "encoder/cuda/dense_pinning.h"

namespace loci {
namespace {

constexpr int kSlots = 2;
constexpr int64_t kUploadBytes = 4 << 20;

void Convert(ElementType type, const float* from, int64_t count, void* to) {
  switch (type) {
    case ElementType::kFloat16:
      Float32ToFloat16(from, static_cast<uint16_t*>(to), static_cast<size_t>(count));
      return;
    case ElementType::kBfloat16:
      Float32ToBfloat16(from, static_cast<uint16_t*>(to), static_cast<size_t>(count));
      return;
    default:
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  }
}

}  // namespace

// What one batch under way has to itself.
struct CudaEncoder::Lane {
  // Staging of one chunk. `chunk` is under way until `done` has been waited for.
  struct Slot {
    int32_t* batch = nullptr;
    const float* output = nullptr;
    // One of them is recorded: the first behind a graph's few rows, the second behind a chunk that would hold a core for milliseconds.
    CudaEvent soon, late;
    CudaHandle done = nullptr;
    cuda::Chunk chunk;
    bool busy = false;
  };

  explicit Lane(int graph_capacity) : graphs(graph_capacity) {}

  CudaStream stream;
  DeviceMemory memory;
  PinnedMemory pinned;
  int32_t* batch = nullptr;
  void *hidden = nullptr, *qkv = nullptr, *context = nullptr, *sum = nullptr, *intermediate = nullptr;
  float* output = nullptr;
  std::array<Slot, kSlots> slots;
  GraphCache graphs;
};

// Puts tensors one behind the other into the weights' memory.
class CudaEncoder::Uploader {
 public:
  Uploader(CudaRuntime& runtime, void* memory, int64_t bytes)
      : runtime_(runtime), at_(static_cast<char*>(memory)), end_(at_ + bytes) {}

  absl::Status Init() {
    LOCI_ASSIGN_OR_RETURN(stream_, Own<CudaStream>(runtime_, runtime_.CreateStream()));
    LOCI_ASSIGN_OR_RETURN(event_, Own<CudaEvent>(runtime_, runtime_.CreateEvent(EventWait::kBlock)));
    LOCI_ASSIGN_OR_RETURN(pinned_, Own<PinnedMemory>(runtime_, runtime_.AllocatePinned(kUploadBytes)));
    return absl::OkStatus();
  }

  absl::StatusOr<const void*> Put(ElementType type, const AlignedFloats& values) {
    const int64_t size = static_cast<int64_t>(ElementSize(type)), slice = kUploadBytes / size;
    if (cuda::AlignDevice(values.size() * size) > end_ - at_)
      return absl::InternalError("the weights are larger than was planned");
    for (int64_t begin = 0; begin < values.size(); begin += slice) {
      const int64_t count = std::min(slice, values.size() - begin);
      Convert(type, values.data() + begin, count, pinned_.get());
      LOCI_RETURN_IF_ERROR(runtime_.CopyToDevice(at_ + begin * size, pinned_.get(), count * size, stream_.get()));
      LOCI_RETURN_IF_ERROR(runtime_.Record(event_.get(), stream_.get()));
      LOCI_RETURN_IF_ERROR(runtime_.Wait(event_.get()));
    }
    const void* const place = at_;
    at_ += cuda::AlignDevice(values.size() * size);
    return place;
  }

  absl::StatusOr<const float*> PutFloats(const AlignedFloats& values) {
    LOCI_ASSIGN_OR_RETURN(const void* const place, Put(ElementType::kFloat32, values));
    return static_cast<const float*>(place);
  }

 private:
  CudaRuntime& runtime_;
  char* at_;
  char* const end_;
  CudaStream stream_;
  CudaEvent event_;
  PinnedMemory pinned_;
};

CudaEncoder::CudaEncoder(const ModelConfig& config, EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer,
                         CudaEncoderOptions options)
    : config_(config), spec_(std::move(spec)), tokenizer_(std::move(tokenizer)), options_(std::move(options)) {
  shape_ = {.dim = config.hidden_size,
            .head_count = config.head_count,
            .layer_count = config.layer_count,
            .intermediate_size = config.intermediate_size,
            .vocabulary_size = config.vocabulary_size,
            .max_positions = config.max_positions,
            .max_length = spec_.max_length};
}

CudaEncoder::~CudaEncoder() = default;

absl::StatusOr<std::shared_ptr<const Encoder>> CudaEncoder::Create(const BertReader& reader, const ModelConfig& config,
                                                                   EncoderSpec spec, std::unique_ptr<Tokenizer> tokenizer,
                                                                   CudaEncoderOptions options) {
  CudaHealth& health = options.backend->health();
  LOCI_RETURN_IF_ERROR(health.Check());
  auto encoder = std::shared_ptr<CudaEncoder>(new CudaEncoder(config, std::move(spec), std::move(tokenizer), std::move(options)));
  const absl::Status status = encoder->Init(reader);
  if (status.ok()) return encoder;
  if (absl::IsUnavailable(status)) return health.Fail(status);
  // Somebody else took what the plan found free.
  if (absl::IsResourceExhausted(status)) return absl::FailedPreconditionError(status.message());
  return status;
}

absl::Status CudaEncoder::Init(const BertReader& reader) {
  CudaRuntime& runtime = options_.backend->runtime();
  LOCI_ASSIGN_OR_RETURN(const CudaRuntime::Memory memory, runtime.GetMemory());
  LOCI_ASSIGN_OR_RETURN(plan_, cuda::PlanMemory(shape_, options_.type, memory.free_bytes, options_.limits));
  if (spec_.max_length > plan_.max_rows) {
    return absl::FailedPreconditionError(
        absl::StrCat("a sequence may have ", spec_.max_length, " tokens, a chunk at most ", plan_.max_rows));
  }
  buckets_ = cuda::RowBuckets(plan_.max_rows);
  LOCI_ASSIGN_OR_RETURN(kernels_, options_.backend->MakeKernels({.type = options_.type,
                                                                 .dim = shape_.dim,
                                                                 .head_count = shape_.head_count,
                                                                 .intermediate_size = shape_.intermediate_size,
                                                                 .epsilon = config_.layer_norm_epsilon,
                                                                 .pooling = config_.pooling,
                                                                 .normalize = config_.normalize,
                                                                 .multiprocessor_count = runtime.multiprocessor_count(),
                                                                 .row_counts = buckets_}));
  LOCI_RETURN_IF_ERROR(UploadWeights(reader));
  for (int i = 0; i < plan_.lanes; ++i) {
    LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Lane> lane, MakeLane());
    lanes_.push_back(std::move(lane));
  }
  // All layers have the same four shapes; two of them are one where the intermediate size says so.
  const int dim = shape_.dim, inner = shape_.intermediate_size;
  std::vector<cuda::DenseShape> shapes;
  const Layer& first = layers_.front();
  for (const cuda::DenseShape& shape :
       {cuda::DenseShape{first.query_key_value, 3 * dim, dim}, cuda::DenseShape{first.attention_output, dim, dim},
        cuda::DenseShape{first.intermediate, inner, dim}, cuda::DenseShape{first.output, dim, inner}}) {
    const bool known =
        std::any_of(shapes.begin(), shapes.end(), [&](const auto& s) { return s.cols == shape.cols && s.depth == shape.depth; });
    if (!known) shapes.push_back(shape);
  }
  Lane& lane = *lanes_.front();
  for (const cuda::DenseShape& shape : shapes) {
    const cuda::PinningBuffers buffers = {.input = shape.depth == dim ? lane.context : lane.intermediate,
                                          .output = shape.cols == 3 * dim ? lane.qkv
                                                    : shape.cols == dim   ? lane.sum
                                                                          : lane.intermediate};
    LOCI_RETURN_IF_ERROR(cuda::PinDenseShape(runtime, *kernels_, shape, buckets_, options_.type, buffers, lane.stream.get()));
  }
  for (const std::unique_ptr<Lane>& each : lanes_) LOCI_RETURN_IF_ERROR(WarmUp(each.get()));
  spec_.memory_bytes = plan_.device_bytes();
  spec_.element_type = std::string(ElementTypeName(options_.type));
  spec_.device = options_.backend->name();
  MutexLock lock(&mutex_);
  for (const std::unique_ptr<Lane>& each : lanes_) free_lanes_.push_back(each.get());
  return absl::OkStatus();
}

absl::Status CudaEncoder::UploadWeights(const BertReader& reader) {
  CudaRuntime& runtime = options_.backend->runtime();
  LOCI_ASSIGN_OR_RETURN(weights_, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.weight_bytes)));
  Uploader uploader(runtime, weights_.get(), plan_.weight_bytes);
  LOCI_RETURN_IF_ERROR(uploader.Init());
  {
    LOCI_ASSIGN_OR_RETURN(const BertEmbeddings from, reader.ReadEmbeddings());
    LOCI_ASSIGN_OR_RETURN(embedding_.word, uploader.Put(options_.type, from.word));
    LOCI_ASSIGN_OR_RETURN(embedding_.position, uploader.Put(options_.type, from.position));
    LOCI_ASSIGN_OR_RETURN(embedding_.type, uploader.Put(options_.type, from.type));
    LOCI_ASSIGN_OR_RETURN(embedding_.gamma, uploader.PutFloats(from.gamma));
    LOCI_ASSIGN_OR_RETURN(embedding_.beta, uploader.PutFloats(from.beta));
  }
  for (int i = 0; i < shape_.layer_count; ++i) {
    LOCI_ASSIGN_OR_RETURN(const BertLayer from, reader.ReadLayer(i));
    const auto dense = [&](const DenseWeights& weights, int cols, int depth) -> absl::StatusOr<int> {
      LOCI_ASSIGN_OR_RETURN(const void* const weight, uploader.Put(options_.type, weights.weight));
      LOCI_ASSIGN_OR_RETURN(const void* const bias, uploader.Put(options_.type, weights.bias));
      return kernels_->AddDense(weight, bias, cols, depth);
    };
    Layer layer;
    LOCI_ASSIGN_OR_RETURN(layer.query_key_value, dense(from.query_key_value, 3 * shape_.dim, shape_.dim));
    LOCI_ASSIGN_OR_RETURN(layer.attention_output, dense(from.attention_output, shape_.dim, shape_.dim));
    LOCI_ASSIGN_OR_RETURN(layer.intermediate, dense(from.intermediate, shape_.intermediate_size, shape_.dim));
    LOCI_ASSIGN_OR_RETURN(layer.output, dense(from.output, shape_.dim, shape_.intermediate_size));
    LOCI_ASSIGN_OR_RETURN(layer.attention_gamma, uploader.PutFloats(from.attention_gamma));
    LOCI_ASSIGN_OR_RETURN(layer.attention_beta, uploader.PutFloats(from.attention_beta));
    LOCI_ASSIGN_OR_RETURN(layer.output_gamma, uploader.PutFloats(from.output_gamma));
    LOCI_ASSIGN_OR_RETURN(layer.output_beta, uploader.PutFloats(from.output_beta));
    layers_.push_back(layer);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CudaEncoder::Lane>> CudaEncoder::MakeLane() const {
  CudaRuntime& runtime = options_.backend->runtime();
  auto lane = std::make_unique<Lane>(options_.graph_capacity);
  LOCI_ASSIGN_OR_RETURN(lane->stream, Own<CudaStream>(runtime, runtime.CreateStream()));
  LOCI_ASSIGN_OR_RETURN(lane->memory, Own<DeviceMemory>(runtime, runtime.Allocate(plan_.lane_bytes)));
  LOCI_ASSIGN_OR_RETURN(lane->pinned, Own<PinnedMemory>(runtime, runtime.AllocatePinned(plan_.pinned_bytes)));
  const cuda::LaneLayout layout = cuda::LayOutLane(shape_, options_.type, plan_.max_rows, plan_.max_sequences);
  char* const base = static_cast<char*>(lane->memory.get());
  lane->batch = reinterpret_cast<int32_t*>(base + layout.batch);
  lane->hidden = base + layout.hidden;
  lane->qkv = base + layout.qkv;
  lane->context = base + layout.context;
  lane->sum = base + layout.sum;
  lane->intermediate = base + layout.intermediate;
  lane->output = reinterpret_cast<float*>(base + layout.output);
  // Rows of a bucket that a batch does not fill are multiplied too: whatever is there stays finite or is never read.
  LOCI_RETURN_IF_ERROR(runtime.Fill(base, 0, layout.total, lane->stream.get()));
  char* pinned = static_cast<char*>(lane->pinned.get());
  for (Lane::Slot& slot : lane->slots) {
    slot.batch = reinterpret_cast<int32_t*>(pinned);
    pinned += cuda::AlignDevice(4 * cuda::MaxDeviceBatchInts(plan_.max_rows, plan_.max_sequences));
    slot.output = reinterpret_cast<const float*>(pinned);
    pinned += cuda::AlignDevice(4 * static_cast<int64_t>(plan_.max_sequences) * shape_.dim);
    LOCI_ASSIGN_OR_RETURN(slot.soon, Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kSpin)));
    LOCI_ASSIGN_OR_RETURN(slot.late, Own<CudaEvent>(runtime, runtime.CreateEvent(EventWait::kBlock)));
  }
  return lane;
}

// Runs each kernel once, which loads it (that can't happen while a graph is captured), and captures the graphs.
absl::Status CudaEncoder::WarmUp(Lane* lane) const {
  CudaRuntime& runtime = options_.backend->runtime();
  Lane::Slot& slot = lane->slots[0];
  const PackedBatch batch = {.token_ids = {0}, .offsets = {0, 1}};
  const cuda::Chunk chunk = {.first_sequence = 0, .sequence_count = 1, .token_count = 1};
  int32_t tiles = 0;
  const int64_t ints = cuda::WriteDeviceBatch(batch, chunk, slot.batch, &tiles);
  LOCI_RETURN_IF_ERROR(runtime.CopyToDevice(lane->batch, slot.batch, 4 * ints, lane->stream.get()));
  LOCI_RETURN_IF_ERROR(RunLayers(lane, {.batch = lane->batch,
                                        .rows = buckets_.front(),
                                        .sequences = 1,
                                        .tiles = tiles,
                                        .exact = true,
                                        .stream = lane->stream.get()}));
  LOCI_RETURN_IF_ERROR(runtime.Record(slot.late.get(), lane->stream.get()));
  LOCI_RETURN_IF_ERROR(runtime.Wait(slot.late.get()));
  int captured = 0;
  for (const int32_t rows : buckets_) {
    if (rows > options_.max_graph_rows || captured == options_.graph_capacity) break;
    LOCI_ASSIGN_OR_RETURN(CudaGraph graph, Capture(lane, rows));
    lane->graphs.Insert(rows, std::move(graph));
    ++captured;
  }
  return absl::OkStatus();
}

absl::Status CudaEncoder::RunLayers(Lane* lane, const cuda::Launch& launch) const {
  const auto dense = [&](int layer, void* output, const void* input) {
    return kernels_->Dense(layer, output, input, launch.rows, launch.stream);
  };
  LOCI_RETURN_IF_ERROR(kernels_->Embedding(launch, lane->hidden, embedding_));
  for (const Layer& layer : layers_) {
    LOCI_RETURN_IF_ERROR(dense(layer.query_key_value, lane->qkv, lane->hidden));
    LOCI_RETURN_IF_ERROR(kernels_->Attention(launch, lane->context, lane->qkv));
    LOCI_RETURN_IF_ERROR(dense(layer.attention_output, lane->sum, lane->context));
    LOCI_RETURN_IF_ERROR(
        kernels_->ResidualNorm(launch, lane->hidden, lane->sum, lane->hidden, layer.attention_gamma, layer.attention_beta));
    LOCI_RETURN_IF_ERROR(dense(layer.intermediate, lane->intermediate, lane->hidden));
    LOCI_RETURN_IF_ERROR(kernels_->Gelu(launch, lane->intermediate));
    LOCI_RETURN_IF_ERROR(dense(layer.output, lane->sum, lane->intermediate));
    LOCI_RETURN_IF_ERROR(
        kernels_->ResidualNorm(launch, lane->hidden, lane->sum, lane->hidden, layer.output_gamma, layer.output_beta));
  }
  return kernels_->Pool(launch, lane->output, lane->hidden);
}

absl::StatusOr<CudaGraph> CudaEncoder::Capture(Lane* lane, int32_t rows) const {
  CudaRuntime& runtime = options_.backend->runtime();
  LOCI_RETURN_IF_ERROR(runtime.BeginCapture(lane->stream.get()));
  const int32_t sequences = std::min(rows, plan_.max_sequences);
  const absl::Status status = RunLayers(lane, {.batch = lane->batch,
                                               .rows = rows,
                                               .sequences = sequences,
                                               .tiles = cuda::MaxTiles(rows, sequences),
                                               .exact = false,
                                               .stream = lane->stream.get()});
  absl::StatusOr<CudaGraph> graph = Own<CudaGraph>(runtime, runtime.EndCapture(lane->stream.get()));
  LOCI_RETURN_IF_ERROR(status);
  return graph;
}

absl::Status CudaEncoder::RunChunk(Lane* lane, int32_t rows, int32_t sequences, int32_t tiles) const {
  if (rows <= options_.max_graph_rows) {
    if (const CudaHandle graph = lane->graphs.Find(rows); graph != nullptr) {
      return options_.backend->runtime().LaunchGraph(graph, lane->stream.get());
    }
  }
  return RunLayers(
      lane,
      {.batch = lane->batch, .rows = rows, .sequences = sequences, .tiles = tiles, .exact = true, .stream = lane->stream.get()});
}

absl::Status CudaEncoder::RunBatch(Lane* lane, const PackedBatch& batch, float* vectors, int64_t* not_finite) const {
  CudaRuntime& runtime = options_.backend->runtime();
  const CudaHandle stream = lane->stream.get();
  const int64_t dim = shape_.dim;
  const auto collect = [&](Lane::Slot* slot) -> absl::Status {
    if (!slot->busy) return absl::OkStatus();
    slot->busy = false;
    LOCI_RETURN_IF_ERROR(runtime.Wait(slot->done));
    const int64_t count = slot->chunk.sequence_count;
    for (int64_t s = 0; s < count && *not_finite < 0; ++s) {
      // The sum of a vector with a value that is not finite is not finite.
      float sum = 0;
      for (int64_t i = 0; i < dim; ++i) sum += std::abs(slot->output[s * dim + i]);
      if (!std::isfinite(sum)) *not_finite = slot->chunk.first_sequence + s;
    }
    std::copy_n(slot->output, count * dim, vectors + slot->chunk.first_sequence * dim);
    return absl::OkStatus();
  };
  size_t turn = 0;
  for (int64_t next = 0; next < batch.sequence_count(); ++turn) {
    Lane::Slot& slot = lane->slots[turn % kSlots];
    LOCI_RETURN_IF_ERROR(collect(&slot));
    slot.chunk = cuda::NextChunk(batch, next, plan_.max_rows, plan_.max_sequences);
    next += slot.chunk.sequence_count;
    const int32_t rows = cuda::BucketOf(buckets_, slot.chunk.token_count);
    if (rows <= options_.max_graph_rows && options_.graph_capacity > 0 && lane->graphs.Find(rows) == nullptr) {
      // Inserting may drop a graph: none may be under way.
      for (Lane::Slot& other : lane->slots) LOCI_RETURN_IF_ERROR(collect(&other));
      LOCI_ASSIGN_OR_RETURN(CudaGraph graph, Capture(lane, rows));
      lane->graphs.Insert(rows, std::move(graph));
    }
    int32_t tiles = 0;
    const int64_t ints = cuda::WriteDeviceBatch(batch, slot.chunk, slot.batch, &tiles);
    LOCI_RETURN_IF_ERROR(runtime.CopyToDevice(lane->batch, slot.batch, 4 * ints, stream));
    LOCI_RETURN_IF_ERROR(RunChunk(lane, rows, slot.chunk.sequence_count, tiles));
    LOCI_RETURN_IF_ERROR(
        runtime.CopyToHost(const_cast<float*>(slot.output), lane->output, 4 * slot.chunk.sequence_count * dim, stream));
    slot.done = (rows <= options_.max_graph_rows ? slot.soon : slot.late).get();
    LOCI_RETURN_IF_ERROR(runtime.Record(slot.done, stream));
    slot.busy = true;
  }
  for (size_t i = 0; i < kSlots; ++i, ++turn) LOCI_RETURN_IF_ERROR(collect(&lane->slots[turn % kSlots]));
  return absl::OkStatus();
}

absl::Status CudaEncoder::Encode(const PackedBatch& batch, float* vectors) const {
  LOCI_RETURN_IF_ERROR(CheckBatch(batch, spec_.max_length, config_.vocabulary_size));
  if (batch.sequence_count() == 0) return absl::OkStatus();
  CudaHealth& health = options_.backend->health();
  LOCI_RETURN_IF_ERROR(health.Check());
  Lane* lane = nullptr;
  {
    MutexLock lock(&mutex_);
    while (free_lanes_.empty()) lane_is_free_.Wait(&mutex_);
    lane = free_lanes_.back();
    free_lanes_.pop_back();
  }
  int64_t not_finite = -1;
  // Who waited for a lane may have waited for a device that failed.
  absl::Status status = health.Check();
  if (status.ok()) {
    status = RunBatch(lane, batch, vectors, &not_finite);
    if (!status.ok()) status = health.Fail(status);
  }
  {
    MutexLock lock(&mutex_);
    free_lanes_.push_back(lane);
  }
  lane_is_free_.NotifyOne();
  if (status.ok() && not_finite >= 0) {
    return absl::InternalError(
        absl::StrCat("the vector of sequence ", not_finite, " has a value that is not finite in ", spec_.element_type));
  }
  return status;
}

}  // namespace loci
