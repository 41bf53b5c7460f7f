#include "clients/cli/bench_parts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace loci {
namespace {

// Full batches, whatever the server's are, of queries that differ.
constexpr size_t kTextsPerRequest = 64;
constexpr size_t kMaxQueries = 1024;

absl::Status ErrorOf(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<const BenchParts>> BenchParts::Create(CliContext& cli, const std::vector<EvalQuery>& queries,
                                                                     const v1::SearchRequest& search) {
  v1::GetStoreRequest get_store;
  get_store.set_store(search.store());
  v1::GetStoreResponse store;
  {
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
    if (const grpc::Status status = cli.admin().GetStore(&context, get_store, &store); !status.ok()) return ErrorOf(status);
  }
  if (store.store().encoder_precision() == "int8") {
    return absl::FailedPreconditionError("the store is set to int8, in which nothing encodes but its own searches");
  }
  std::unique_ptr<BenchParts> parts(new BenchParts());
  const size_t count = std::min(queries.size(), kMaxQueries);
  const size_t per_request = std::min(count, kTextsPerRequest);
  parts->texts_per_request_ = static_cast<int64_t>(per_request);
  const std::unique_ptr<v1::RetrievalService::Stub> stub = v1::RetrievalService::NewStub(cli.NewChannel());
  for (size_t first = 0; first + per_request <= count; first += per_request) {
    v1::EncodeRequest& request = parts->encodes_.emplace_back();
    request.set_encoder(store.store().encoder_fingerprint());
    request.set_role(v1::TEXT_ROLE_QUERY);
    request.set_truncation(v1::TRUNCATION_TRUNCATE);
    for (size_t i = first; i < first + per_request; ++i) request.add_texts(queries[i].text);
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kDefaultTimeoutMs);
    v1::EncodeResponse response;
    if (const grpc::Status status = stub->Encode(&context, request, &response); !status.ok()) return ErrorOf(status);
    const v1::Matrix& vectors = response.vectors();
    const size_t row_bytes = vectors.data().size() / per_request;
    if (vectors.rows() != static_cast<int64_t>(per_request) || row_bytes * per_request != vectors.data().size()) {
      return absl::InternalError(absl::StrCat("the server sent ", vectors.rows(), " vectors of ", per_request, " texts"));
    }
    for (size_t i = 0; i < per_request; ++i) {
      v1::SearchRequest& one = parts->searches_.emplace_back(search);
      v1::Matrix* const vector = one.add_queries()->mutable_vector();
      vector->set_rows(1);
      vector->set_cols(vectors.cols());
      vector->set_type(vectors.type());
      vector->set_data(vectors.data().substr(i * row_bytes, row_bytes));
    }
  }
  return parts;
}

grpc::Status BenchParts::Encode(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, int64_t number, v1::Timings* timings) const {
  v1::EncodeResponse response;
  grpc::Status status = stub.Encode(context, encodes_[static_cast<size_t>(number) % encodes_.size()], &response);
  *timings = response.timings();
  return status;
}

grpc::Status BenchParts::Search(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, int64_t number, v1::Timings* timings) const {
  v1::SearchResponse response;
  grpc::Status status = stub.Search(context, searches_[static_cast<size_t>(number) % searches_.size()], &response);
  *timings = response.timings();
  return status;
}

}  // namespace loci
