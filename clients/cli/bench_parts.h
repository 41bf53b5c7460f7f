// What a search is made of, each alone: the requests by which `loci bench --saturation` finds how much encoding and searching would allow.
#ifndef LOCI_CLIENTS_CLI_BENCH_PARTS_H_
#define LOCI_CLIENTS_CLI_BENCH_PARTS_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/cli_context.h"
#include "clients/cli/eval_input.h"
#include "proto/loci/v1/retrieval.grpc.pb.h"

namespace loci {

// Immutable: its functions may be called by many threads at once.
class BenchParts {
 public:
  // `search` has all of a search but its queries. Asks the server for the queries' vectors. Its errors, as people read them; FAILED_PRECONDITION where
  // the store's texts are encoded in another precision than Encode's.
  static absl::StatusOr<std::unique_ptr<const BenchParts>> Create(CliContext& cli, const std::vector<EvalQuery>& queries,
                                                                  const v1::SearchRequest& search);

  int64_t texts_per_request() const { return texts_per_request_; }

  // Encodes the next texts_per_request() queries.
  grpc::Status Encode(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, int64_t number, v1::Timings* timings) const;
  // Searches by the vector of one.
  grpc::Status Search(v1::RetrievalService::Stub& stub, grpc::ClientContext* context, int64_t number, v1::Timings* timings) const;

 private:
  BenchParts() = default;

  std::vector<v1::EncodeRequest> encodes_;
  std::vector<v1::SearchRequest> searches_;
  int64_t texts_per_request_ = 0;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_BENCH_PARTS_H_
