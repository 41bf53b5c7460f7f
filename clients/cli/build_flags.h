// Flags of every command that builds a generation.
#ifndef LOCI_CLIENTS_CLI_BUILD_FLAGS_H_
#define LOCI_CLIENTS_CLI_BUILD_FLAGS_H_

#include <string>
#include <string_view>

#include "clients/cli/flags.h"
#include "proto/loci/v1/admin.pb.h"

namespace loci {

// Of "replay" and "discard"; UNSPECIFIED for all else.
inline v1::WritesSince WritesSinceOf(std::string_view name) {
  if (name == "replay") return v1::WRITES_SINCE_REPLAY;
  if (name == "discard") return v1::WRITES_SINCE_DISCARD;
  return v1::WRITES_SINCE_UNSPECIFIED;
}

// Used by one thread: the command's.
class BuildFlags {
 public:
  // The set keeps pointers into this object.
  void Declare(FlagSet* flags, std::string_view index_help, std::string_view vector_type_help, std::string_view no_wait_help) {
    flags->String("index", &index_, "SPEC", std::string(index_help));
    flags->Choice("vector-type", &vector_type_, {"float32", "float16", "bfloat16"}, std::string(vector_type_help));
    flags->Bool("no-activate", &no_activate_, "Build the generation, do not let it answer.");
    flags->Choice("writes-since", &writes_since_, {"replay", "discard"}, "What becomes of writes made meanwhile.");
    flags->Bool("no-wait", &no_wait_, std::string(no_wait_help));
  }

  bool no_activate() const { return no_activate_; }
  bool no_wait() const { return no_wait_; }
  // Whether any is given that says how the generation is to be built or that it is not to serve.
  bool shapes_generation() const { return !index_.empty() || !vector_type_.empty() || no_activate_; }

  // Sets them in the header of an ingest or an import.
  template <typename Header>
  void Fill(Header* header) const {
    if (!index_.empty()) header->mutable_index()->set_factory(index_);
    if (vector_type_ == "float32") header->mutable_index()->set_vector_type(v1::VECTOR_TYPE_FLOAT32);
    if (vector_type_ == "float16") header->mutable_index()->set_vector_type(v1::VECTOR_TYPE_FLOAT16);
    if (vector_type_ == "bfloat16") header->mutable_index()->set_vector_type(v1::VECTOR_TYPE_BFLOAT16);
    header->set_no_activate(no_activate_);
    header->set_writes_since(WritesSinceOf(writes_since_));
    header->set_no_wait(no_wait_);
  }

 private:
  std::string index_, vector_type_, writes_since_;
  bool no_activate_ = false, no_wait_ = false;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_BUILD_FLAGS_H_
