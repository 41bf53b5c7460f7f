#include "encoder/cuda/lt_dense.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace loci::cuda {
namespace {

// Of each number of rows that is asked about.
constexpr int kMaxProposals = 16;
// Between a lone query and the largest chunk.
constexpr int32_t kMiddleRows = 1024;

// The functions that are used, by name.
struct Library {
#define LOCI_LT_FUNCTIONS(X)              \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtGetStatusString)              \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulAlgoCheck)              \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)
#define LOCI_DECLARE(name) decltype(&::name) name = nullptr;
  LOCI_LT_FUNCTIONS(LOCI_DECLARE)
#undef LOCI_DECLARE
};

absl::StatusOr<Library> OpenLibrary() {
  const std::string name = absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR);
  std::vector<std::string> places = {name};
  if (const char* const folder = std::getenv("LOCI_CUDA_LIBRARY_DIR"); folder != nullptr)
    places.push_back(absl::StrCat(folder, "/", name));
  places.push_back(absl::StrCat("/usr/local/cuda/lib64/", name));
  void* handle = nullptr;
  std::vector<std::string> errors;
  for (const std::string& place : places) {
    handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) break;
    errors.push_back(dlerror());
  }
  if (handle == nullptr)
    return absl::FailedPreconditionError(absl::StrCat("cuBLASLt can't be opened: ", absl::StrJoin(errors, "; ")));
  Library library;
#define LOCI_FIND(function)                                                                  \
  library.function = reinterpret_cast<decltype(library.function)>(dlsym(handle, #function)); \
  if (library.function == nullptr) return absl::FailedPreconditionError(absl::StrCat(name, " has no " #function));
  LOCI_LT_FUNCTIONS(LOCI_FIND)
#undef LOCI_FIND
  return library;
}

// Stays open: a library with threads and device code is not unloaded safely.
const absl::StatusOr<Library>& TheLibrary() {
  static const auto* const library = new absl::StatusOr<Library>(OpenLibrary());
  return *library;
}

absl::Status ToStatus(const Library& library, cublasStatus_t status, absl::string_view action) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string message = absl::StrCat(action, ": ", library.cublasLtGetStatusString(status), " (cuBLAS error ", status, ")");
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED:
    case CUBLAS_STATUS_ARCH_MISMATCH:
    case CUBLAS_STATUS_NOT_SUPPORTED:
    case CUBLAS_STATUS_INVALID_VALUE:
      return absl::FailedPreconditionError(message);
    case CUBLAS_STATUS_ALLOC_FAILED:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

class LtDenseImpl : public LtDense {
 public:
  LtDenseImpl(const Library& library, ElementType type, std::vector<int32_t> row_counts)
      : library_(library), row_counts_(std::move(row_counts)) {
    type_ = type == ElementType::kFloat32 ? CUDA_R_32F : type == ElementType::kFloat16 ? CUDA_R_16F : CUDA_R_16BF;
  }

  ~LtDenseImpl() override {
    for (const auto& [size, layout] : layouts_) library_.cublasLtMatrixLayoutDestroy(layout);
    for (const Layer& layer : layers_) library_.cublasLtMatmulDescDestroy(layer.operation);
    if (handle_ != nullptr) library_.cublasLtDestroy(handle_);
  }

  absl::Status Init() { return ToStatus(library_, library_.cublasLtCreate(&handle_), "starting cuBLASLt"); }

  absl::StatusOr<int> Add(const void* weight, const void* bias, int cols, int depth) override {
    Layer layer = {.weight = weight, .cols = cols, .depth = depth};
    LOCI_RETURN_IF_ERROR(ToStatus(library_, library_.cublasLtMatmulDescCreate(&layer.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                                  "describing a product"));
    layers_.push_back(layer);
    const int32_t transposed = CUBLAS_OP_T;
    const uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    LOCI_RETURN_IF_ERROR(Set(layer.operation, CUBLASLT_MATMUL_DESC_TRANSA, transposed));
    LOCI_RETURN_IF_ERROR(Set(layer.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue));
    LOCI_RETURN_IF_ERROR(Set(layer.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    // To cuBLAS, whose matrices are column-major: D [cols, rows] = weight^T, [depth, cols] transposed, times input [depth, rows].
    LOCI_RETURN_IF_ERROR(AddLayout(depth, cols));
    for (const int32_t rows : row_counts_) {
      LOCI_RETURN_IF_ERROR(AddLayout(depth, rows));
      LOCI_RETURN_IF_ERROR(AddLayout(cols, rows));
    }
    return static_cast<int>(layers_.size()) - 1;
  }

  absl::StatusOr<int> Candidates(int cols, int depth) override {
    const Layer* layer = nullptr;
    for (const Layer& each : layers_) {
      if (each.cols == cols && each.depth == depth) layer = &each;
    }
    if (layer == nullptr) return absl::InternalError(absl::StrCat("no dense layer of ", cols, " x ", depth));
    cublasLtMatmulPreference_t preference = nullptr;
    LOCI_RETURN_IF_ERROR(ToStatus(library_, library_.cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm"));
    const uint64_t workspace = 0;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE;
    const uint32_t alignment = 16;
    cublasStatus_t status = library_.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                          &workspace, sizeof(workspace));
    const auto also = [&](cublasLtMatmulPreferenceAttributes_t attribute, const uint32_t& value) {
      if (status == CUBLAS_STATUS_SUCCESS)
        status = library_.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
    };
    also(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
    for (const auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                 CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      also(attribute, alignment);
    }
    const cublasLtMatrixLayout_t weight_layout = layouts_.at({depth, cols});
    // The fastest for the most rows first; those for fewer rows are there in case none of them does for all.
    std::vector<cublasLtMatmulAlgo_t> proposals;
    const auto middle = std::lower_bound(row_counts_.begin(), row_counts_.end() - 1, kMiddleRows);
    for (const int32_t rows : {row_counts_.back(), *middle, row_counts_.front()}) {
      cublasLtMatmulHeuristicResult_t results[kMaxProposals];
      int found = 0;
      if (status != CUBLAS_STATUS_SUCCESS) break;
      status = library_.cublasLtMatmulAlgoGetHeuristic(handle_, layer->operation, weight_layout, layouts_.at({depth, rows}),
                                                       layouts_.at({cols, rows}), layouts_.at({cols, rows}), preference,
                                                       kMaxProposals, results, &found);
      // Nothing for these rows.
      if (status == CUBLAS_STATUS_NOT_SUPPORTED) status = CUBLAS_STATUS_SUCCESS, found = 0;
      for (int i = 0; i < found; ++i) {
        const cublasLtMatmulAlgo_t& algorithm = results[i].algo;
        const bool known = std::any_of(proposals.begin(), proposals.end(), [&](const cublasLtMatmulAlgo_t& each) {
          return std::memcmp(&each, &algorithm, sizeof(algorithm)) == 0;
        });
        if (results[i].state == CUBLAS_STATUS_SUCCESS && !known) proposals.push_back(algorithm);
      }
    }
    library_.cublasLtMatmulPreferenceDestroy(preference);
    LOCI_RETURN_IF_ERROR(ToStatus(library_, status, absl::StrCat("looking for an algorithm of depth ", depth, " and width ", cols)));
    Shape& shape = shapes_[{cols, depth}];
    shape.candidates.clear();
    for (const cublasLtMatmulAlgo_t& algorithm : proposals) {
      bool runs = true;
      for (const int32_t count : row_counts_) {
        cublasLtMatmulHeuristicResult_t checked;
        runs = runs &&
               library_.cublasLtMatmulAlgoCheck(handle_, layer->operation, weight_layout, layouts_.at({depth, count}),
                                                layouts_.at({cols, count}), layouts_.at({cols, count}), &algorithm,
                                                &checked) == CUBLAS_STATUS_SUCCESS &&
               checked.workspaceSize == 0;
      }
      if (runs) shape.candidates.push_back(algorithm);
    }
    return static_cast<int>(shape.candidates.size());
  }

  void Pin(int cols, int depth, int candidate) override {
    Shape& shape = shapes_.at({cols, depth});
    shape.pinned = shape.candidates.at(static_cast<size_t>(candidate));
    for (Layer& layer : layers_) {
      if (layer.cols == cols && layer.depth == depth) layer.algorithm = &shape.pinned;
    }
  }

  absl::Status Run(int index, void* output, const void* input, int32_t rows, void* stream) override {
    const Layer& layer = layers_[static_cast<size_t>(index)];
    const float one = 1, zero = 0;
    const cublasLtMatrixLayout_t result = layouts_.at({layer.cols, rows});
    return ToStatus(library_,
                    library_.cublasLtMatmul(handle_, layer.operation, &one, layer.weight, layouts_.at({layer.depth, layer.cols}),
                                            input, layouts_.at({layer.depth, rows}), &zero, output, result, output, result,
                                            layer.algorithm, nullptr, 0, static_cast<cudaStream_t>(stream)),
                    "multiplying matrices");
  }

 private:
  struct Layer {
    const void* weight = nullptr;
    int cols = 0, depth = 0;
    cublasLtMatmulDesc_t operation = nullptr;
    const cublasLtMatmulAlgo_t* algorithm = nullptr;
  };
  struct Shape {
    std::vector<cublasLtMatmulAlgo_t> candidates;
    cublasLtMatmulAlgo_t pinned;
  };

  template <typename T>
  absl::Status Set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return ToStatus(library_, library_.cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
                    "describing a product");
  }

  // A column-major matrix of `rows` x `cols` without gaps.
  absl::Status AddLayout(int rows, int cols) {
    if (layouts_.contains({rows, cols})) return absl::OkStatus();
    cublasLtMatrixLayout_t layout = nullptr;
    LOCI_RETURN_IF_ERROR(ToStatus(
        library_,
        library_.cublasLtMatrixLayoutCreate(&layout, type_, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), rows),
        "describing a matrix"));
    layouts_[{rows, cols}] = layout;
    return absl::OkStatus();
  }

  const Library& library_;
  const std::vector<int32_t> row_counts_;
  cudaDataType type_;
  cublasLtHandle_t handle_ = nullptr;
  std::vector<Layer> layers_;
  std::map<std::pair<int, int>, cublasLtMatrixLayout_t> layouts_;
  std::map<std::pair<int, int>, Shape> shapes_;
};

}  // namespace

absl::Status LtDense::CheckLibrary() { return TheLibrary().status(); }

absl::StatusOr<std::unique_ptr<LtDense>> LtDense::Create(ElementType type, std::vector<int32_t> row_counts) {
  const absl::StatusOr<Library>& library = TheLibrary();
  if (!library.ok()) return library.status();
  auto dense = std::make_unique<LtDenseImpl>(*library, type, std::move(row_counts));
  LOCI_RETURN_IF_ERROR(dense->Init());
  return dense;
}

}  // namespace loci::cuda
