// write_tiny_checkpoint FOLDER: the checkpoint of TinyCheckpointOptions' defaults, for tests/golden/make_encoder_golden.py.
#include <cstdio>

#include "base/file.h"
#include "encoder/testing/tiny_checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_tiny_checkpoint FOLDER\n");
    return 2;
  }
  const absl::Status status = loci::WriteTinyCheckpoint(loci::PosixFileSystem(), argv[1], {});
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
